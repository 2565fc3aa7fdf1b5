//! The documents for users say what the program says.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::Path;

use cobalt_api::error::Code;

fn document(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn the_table_of_error_codes_is_the_one_in_the_program() {
    let text = document("api.md");
    let rows: Vec<(String, u16)> = text
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| `")?.split('|').map(str::trim);
            let code = cells.next()?.trim_matches('`').to_owned();
            Some((code, cells.next()?.parse().ok()?))
        })
        .collect();
    let known: Vec<(String, u16)> =
        Code::ALL.iter().map(|code| (code.as_str().to_owned(), code.status())).collect();
    assert_eq!(rows, known, "left: docs/api.md, right: the program");
}
