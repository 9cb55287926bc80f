// A PNG of at most 256 colours, as base64: the most frequent ones, and for each other the nearest of them.
(async () => {
    const image = new Image();
    image.src = 'data:image/png;base64,PICTURE';
    await image.decode();
    const { width, height } = image;
    const context = Object.assign(document.createElement('canvas'), { width, height }).getContext('2d');
    context.drawImage(image, 0, 0);
    const pixels = new Uint32Array(context.getImageData(0, 0, width, height).data.buffer);
    const counts = new Map();
    for (const pixel of pixels) counts.set(pixel, (counts.get(pixel) ?? 0) + 1);
    const palette = [...counts].sort(([, one], [, other]) => other - one).slice(0, 256).map(([colour]) => colour);
    const parts = colour => [colour & 255, colour >> 8 & 255, colour >> 16 & 255];
    const distance = (one, other) => parts(one).reduce((sum, part, place) => sum + (part - parts(other)[place]) ** 2, 0);
    const places = new Map([...counts.keys()].map(colour => [colour, palette.reduce(
        (best, near, place) => distance(near, colour) < distance(palette[best], colour) ? place : best, 0)]));
    const rows = new Uint8Array((width + 1) * height);
    pixels.forEach((pixel, at) => { rows[at + Math.floor(at / width) + 1] = places.get(pixel); });
    const packed = new Blob([rows]).stream().pipeThrough(new CompressionStream('deflate'));
    const number = value => [24, 16, 8, 0].map(shift => value >>> shift & 255);
    const crc = bytes => ~bytes.reduce((sum, byte) => {
        sum ^= byte;
        for (let bit = 0; bit < 8; bit++) sum = sum >>> 1 ^ (sum & 1 ? 0xedb88320 : 0);
        return sum;
    }, ~0) >>> 0;
    const chunk = (kind, data) => {
        const body = [...new TextEncoder().encode(kind), ...data];
        return [...number(data.length), ...body, ...number(crc(body))];
    };
    const png = Uint8Array.from([137, 80, 78, 71, 13, 10, 26, 10,
        ...chunk('IHDR', [...number(width), ...number(height), 8, 3, 0, 0, 0]),
        ...chunk('PLTE', palette.flatMap(parts)),
        ...chunk('IDAT', new Uint8Array(await new Response(packed).arrayBuffer())), ...chunk('IEND', [])]);
    return png.toBase64();
})()
