//! Writes what is generated anew: `cargo gen`.

fn main() -> anyhow::Result<()> {
    for file in tests::generated::all()? {
        if let Some(folder) = file.path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(&file.path, &file.text)?;
    }
    Ok(())
}
