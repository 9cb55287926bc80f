//! Writes the generated Rust of `proto/` anew: `cargo gen`.

fn main() -> anyhow::Result<()> {
    for file in tests::generated::picker()? {
        std::fs::write(&file.path, &file.text)?;
    }
    Ok(())
}
