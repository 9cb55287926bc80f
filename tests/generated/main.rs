//! What is generated and committed is what the generator writes today.

#[test]
fn proto_is_current() {
    for file in tests::generated::picker().unwrap() {
        let committed = std::fs::read_to_string(&file.path).unwrap_or_default();
        assert!(committed == file.text, "{} is stale: run `cargo gen` and commit the result", file.path.display());
    }
}
