//! Colours for what people read, on terminals that want them: headings stand out, and so do lines
//! that say why something is not as it should be. It only looks at the text, never at what it is
//! about, so that tables are the same everywhere.

use std::io;

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};

/// Headings.
const HEADING: Style = Style::new().bold();
/// What asks for attention.
const TROUBLE: Style = AnsiColor::Yellow.on_default();
/// The name of the program before what went wrong.
const ERROR: Style = AnsiColor::Red.on_default().bold();

/// Columns and keys whose content asks for attention.
const COLUMNS: [&str; 2] = ["REASON", "TROUBLE"];
const KEYS: [&str; 4] = ["reason", "trouble", "alarms", "pending"];
/// What a key holds when nothing does.
const NOTHING: &str = "none";

/// A text for standard output, in colours if that is a terminal that wants them: `NO_COLOR` and
/// `TERM=dumb` say no.
pub(super) fn for_stdout(text: String) -> String {
    match AutoStream::choice(&io::stdout()) {
        ColorChoice::Never => text,
        ColorChoice::Auto | ColorChoice::Always | ColorChoice::AlwaysAnsi => paint(&text),
    }
}

/// A failure for standard error, likewise.
pub(super) fn for_stderr(text: String) -> String {
    match AutoStream::choice(&io::stderr()) {
        ColorChoice::Never => text,
        ColorChoice::Auto | ColorChoice::Always | ColorChoice::AlwaysAnsi => {
            match text.split_once(':') {
                Some((program, rest)) => format!("{}:{rest}", painted(ERROR, program)),
                None => text,
            }
        }
    }
}

fn paint(text: &str) -> String {
    match text.lines().next().filter(|first| is_heading(first)) {
        Some(heading) => paint_table(heading, text),
        None => paint_sections(text),
    }
}

fn is_heading(line: &str) -> bool {
    line.contains("   ") && !line.contains(|c: char| c.is_lowercase() || c == ':')
}

fn paint_table(heading: &str, text: &str) -> String {
    let column = COLUMNS.iter().find_map(|name| heading.find(name));
    let has_trouble = |line: &str| column.is_some_and(|at| line.chars().nth(at).is_some());
    let mut lines = text.lines();
    let first = lines.next().map(|line| painted(HEADING, line));
    let rest = lines.map(|line| match has_trouble(line) {
        true => painted(TROUBLE, line),
        false => line.to_owned(),
    });
    first.into_iter().chain(rest).map(|line| line + "\n").collect()
}

fn paint_sections(text: &str) -> String {
    let mut troubled = false;
    let mut out = String::new();
    for line in text.lines() {
        // Further lines of a value are indented.
        if !line.starts_with(' ') {
            let (key, value) = line.split_once(':').unwrap_or(("", ""));
            troubled = KEYS.contains(&key) && value.trim() != NOTHING;
        }
        match troubled {
            true => out += &painted(TROUBLE, line),
            false => out += line,
        }
        out.push('\n');
    }
    out
}

fn painted(style: Style, text: &str) -> String {
    format!("{style}{text}{style:#}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_a_bold_heading_and_rows_with_trouble_stand_out() {
        let table = "NAME   PHASE       REASON\nweb    ready\nshop   requested   no node\n";
        let expected = "\u{1b}[1mNAME   PHASE       REASON\u{1b}[0m\nweb    ready\n\
                        \u{1b}[33mshop   requested   no node\u{1b}[0m\n";
        assert_eq!(paint(table), expected);
    }

    #[test]
    fn in_details_only_what_is_wrong_stands_out_with_all_its_lines() {
        let shown =
            "etcd:     answers\n\nalarms:   n1 is away\n          n2 is away\nleader:   n3\n";
        let expected = "etcd:     answers\n\n\u{1b}[33malarms:   n1 is away\u{1b}[0m\n\
                        \u{1b}[33m          n2 is away\u{1b}[0m\nleader:   n3\n";
        assert_eq!(paint(shown), expected);
        assert_eq!(paint("alarms:  none\n"), "alarms:  none\n");
    }

    #[test]
    fn names_are_left_as_they_are() {
        assert_eq!(paint("WEB\n"), "WEB\n");
        assert_eq!(paint(""), "");
    }
}
