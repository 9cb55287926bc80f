//! Writes what is generated anew: `cargo gen`. `cargo gen manifests` writes what the chart renders to, which needs helm.

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    if std::env::args().nth(1).as_deref() == Some("manifests") {
        let path = tests::cluster::helm::chart().join("../kthena.yaml");
        return Ok(std::fs::write(path, tests::cluster::helm::plain_manifests().await?)?);
    }
    for file in tests::generated::all()? {
        if let Some(folder) = file.path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(&file.path, &file.text)?;
    }
    Ok(())
}
