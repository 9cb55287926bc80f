//! Phones, dark and light, and what the page loads.

use serde_json::Value;

use crate::world::World;

/// Everything that is written, with the contrast to what is behind it (WCAG 2.2, 1.4.3), where that is below 4.5.
const FAINT: &str = "(() => {
    const probe = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
    const parts = colour => { probe.clearRect(0, 0, 1, 1); probe.fillStyle = colour; probe.fillRect(0, 0, 1, 1);
        return [...probe.getImageData(0, 0, 1, 1).data]; };
    const linear = part => (part /= 255) <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    const luminance = ([red, green, blue]) => 0.2126 * linear(red) + 0.7152 * linear(green) + 0.0722 * linear(blue);
    const behind = node => { for (; node; node = node.parentElement) {
        const colour = parts(getComputedStyle(node).backgroundColor); if (colour[3] === 255) return colour; }
        return [255, 255, 255]; };
    const faint = [];
    let seen = 0;
    for (const node of document.querySelectorAll('body *:not(script, style)')) {
        const text = [...node.childNodes].filter(it => it.nodeType === 3).map(it => it.data.trim()).join('');
        if (!text || !node.checkVisibility()) continue;
        seen += 1;
        const [one, other] = [luminance(parts(getComputedStyle(node).color)), luminance(behind(node))];
        const contrast = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
        if (contrast < 4.5) faint.push(`${text}: ${contrast.toFixed(2)}`);
    }
    return { seen, faint, ground: getComputedStyle(document.body).backgroundColor };
})()";

#[tokio::test]
async fn everything_can_be_read_in_the_dark_and_in_the_light() {
    let mut world = World::instant().await;
    let decision = world.ask("hello").await;
    world.until_decision(&decision).await;
    world.browser.click("#decisions tr.pick").await.unwrap();
    let mut grounds = Vec::new();
    for dark in [false, true] {
        world.browser.prefer_dark(dark).await.unwrap();
        let found = world.browser.evaluate(FAINT).await.unwrap();
        assert_eq!(found["faint"], Value::Array(Vec::new()), "dark: {dark}");
        assert!(found["seen"].as_u64().unwrap() > 60, "{found}");
        grounds.push(found["ground"].clone());
    }
    assert_ne!(grounds[0], grounds[1]);
    world.finish().await;
}

/// What has text and reaches over the right edge; pictures of nothing are no matter.
const OUTSIDE: &str = "[...document.querySelectorAll('body *:not(script, style)')].filter(node => node.checkVisibility()
    && node.childElementCount === 0 && node.innerText?.trim()).filter(node => { const box = node.getBoundingClientRect();
    return box.left < 0 || box.right > innerWidth; }).map(node => node.innerText)";

#[tokio::test]
async fn a_phone_shows_everything_without_scrolling_sideways() {
    let mut world = World::instant().await;
    world.browser.resize(390, 844, true).await.unwrap();
    world.open().await;
    let decision = world.ask("hello").await;
    world.until_decision(&decision).await;
    for open in [false, true] {
        if open {
            world.browser.click("#decisions tr.pick td.why").await.unwrap();
            world.until("the explanation", "decisions.querySelector('tr.detail tr.chosen')").await;
        }
        let width = world.browser.evaluate("document.scrollingElement.scrollWidth").await.unwrap();
        assert_eq!(width, 390, "open: {open}");
        assert_eq!(world.browser.evaluate(OUTSIDE).await.unwrap(), Value::Array(Vec::new()), "open: {open}");
    }
    // Without a head the cells say themselves what they are.
    let label = "getComputedStyle(document.querySelector('#fleet td:nth-child(4)'), '::before').content";
    assert!(world.text(label).await.contains("in flight"));
    let height = world.browser.evaluate("decisions.querySelector('tr.pick').getBoundingClientRect().height").await;
    assert!(height.unwrap().as_f64().unwrap() >= 44.0, "a finger must hit it");
    world.finish().await;
}

#[tokio::test]
async fn the_page_itself_refuses_what_is_not_its_pickers() {
    let mut world = World::instant().await;
    assert_eq!(world.browser.complaints(), Vec::<String>::new());
    let foreign = format!("http://{}/metrics", world.picker.metrics_address());
    let tried = format!("fetch('{foreign}').then(() => 'fetched', error => error.name)");
    assert_eq!(world.text(&tried).await, "TypeError");
    let complaints = world.browser.complaints().join("\n");
    assert!(complaints.contains("Content Security Policy"), "{complaints}");
    world.browser.close().await.unwrap();
}

#[tokio::test]
async fn every_column_is_in_the_guide() {
    let guide = include_str!("../../deploy/reference/debug-page.md");
    let mut world = World::instant().await;
    let decision = world.ask("hello").await;
    world.until_decision(&decision).await;
    world.browser.click("#decisions tr.pick").await.unwrap();
    // A scorer's column is called by its name and weight.
    let heads = "[...new Set([...document.querySelectorAll('th')].map(head => head.innerText))].filter(it => !it.includes('×'))";
    let heads = world.browser.evaluate(heads).await.unwrap();
    let heads: Vec<&str> = heads.as_array().unwrap().iter().map(|head| head.as_str().unwrap()).collect();
    assert!(heads.len() > 15, "{heads:?}");
    let missing: Vec<&&str> = heads.iter().filter(|head| !guide.contains(&format!("| {head} |"))).collect();
    assert!(missing.is_empty(), "deploy/reference/debug-page.md does not explain {missing:?}");
    world.finish().await;
}
