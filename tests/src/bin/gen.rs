//! Writes what is generated anew: `cargo gen`. `cargo gen manifests` writes what the chart renders to, which needs helm;
//! `cargo gen debug-page` takes the picture of the debug page, which needs Chromium.

use tests::demo::photo;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    match std::env::args().nth(1).as_deref() {
        Some("manifests") => {
            let path = tests::cluster::helm::chart().join("../kthena.yaml");
            return Ok(std::fs::write(path, tests::cluster::helm::plain_manifests().await?)?);
        }
        Some("debug-page") => return photo::debug_page(&photo::path()).await,
        Some(other) => anyhow::bail!("`{other}` is not generated: say `manifests`, `debug-page` or nothing"),
        None => {}
    }
    for file in tests::generated::all()? {
        if let Some(folder) = file.path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(&file.path, &file.text)?;
    }
    Ok(())
}
