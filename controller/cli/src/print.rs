//! What a person or a program reads.

use std::io::Write as _;

use anyhow::Result;
use serde::Serialize;

use crate::args::Format;

/// Prints a line.
pub(crate) fn line(text: &str) -> Result<()> {
    writeln!(std::io::stdout(), "{text}")?;
    Ok(())
}

/// Prints rows under their headers, each column as wide as its widest cell.
pub(crate) fn table<const N: usize>(headers: [&str; N], rows: &[[String; N]]) -> Result<()> {
    for row in lines(headers, rows) {
        line(&row)?;
    }
    Ok(())
}

fn lines<const N: usize>(headers: [&str; N], rows: &[[String; N]]) -> Vec<String> {
    let all: Vec<[&str; N]> =
        std::iter::once(headers).chain(rows.iter().map(|row| row.each_ref().map(String::as_str))).collect();
    let widths: Vec<usize> = (0..N)
        .map(|column| all.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0))
        .collect();
    all.iter()
        .map(|row| {
            let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
            cells.join("   ").trim_end().to_owned()
        })
        .collect()
}

/// Prints `value` for a program.
pub(crate) fn data(value: &impl Serialize, format: Format) -> Result<()> {
    match format {
        Format::Json => line(&serde_json::to_string_pretty(value)?),
        Format::Yaml => line(serde_saphyr::to_string(value)?.trim_end()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["1".to_owned(), "djb7f8jlgx".to_owned()], ["10".to_owned(), String::new()]];
        assert_eq!(lines(["REVISION", "NAME"], &rows), ["REVISION   NAME", "1          djb7f8jlgx", "10"]);
    }
}
