//! Words, columns and sections for a terminal. Knows nothing of volumes.

use comfy_table::{Table, presets};
use jiff::Timestamp;

/// Rows under a heading, columns apart, no borders. A column without anything in it is left out.
pub(super) fn table<const N: usize>(heading: [&str; N], rows: &[[String; N]]) -> String {
    let filled = |column: usize| column == 0 || rows.iter().any(|row| !row[column].is_empty());
    // An empty list still shows what would be in it.
    let shown: Vec<usize> = (0..N).filter(|column| rows.is_empty() || filled(*column)).collect();
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(shown.iter().map(|column| heading[*column]));
    for row in rows {
        table.add_row(shown.iter().map(|column| plain(&row[*column])));
    }
    table.column_iter_mut().for_each(|column| {
        column.set_padding((0, 3));
    });
    table.trim_fmt() + "\n"
}

/// Groups of `key: value` lines, an empty line between groups, values below each other.
pub(super) fn sections(groups: &[&[(&str, String)]]) -> String {
    let widest = groups.iter().flat_map(|group| group.iter()).map(|(key, _)| key.len()).max();
    let width = widest.unwrap_or(0) + 1;
    let line = |(key, value): &(&str, String)| {
        let value: Vec<String> = value.lines().map(plain).collect();
        let indent = format!("\n{:width$}  ", "");
        let key = format!("{key}:");
        format!("{key:width$}  {}", value.join(&indent)).trim_end().to_owned() + "\n"
    };
    let group = |group: &&[(&str, String)]| group.iter().map(line).collect::<String>();
    groups.iter().map(group).collect::<Vec<_>>().join("\n")
}

/// A text from elsewhere without anything that could steer a terminal.
pub(super) fn plain(text: &str) -> String {
    let steers = |c: char| c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c);
    text.chars().map(|c| if steers(c) { '?' } else { c }).collect()
}

/// How long ago an RFC 3339 time was, in its largest unit: `12s`, `5m`, `3h`, `40d`.
pub(super) fn age(time: &str, now: Timestamp) -> String {
    let Ok(time) = time.parse::<Timestamp>() else { return "-".into() };
    let secs = now.as_second().saturating_sub(time.as_second()).max(0);
    match secs {
        0..60 => format!("{secs}s"),
        60..3600 => format!("{}m", secs / 60),
        3600..172_800 => format!("{}h", secs / 3600),
        _ => format!("{}d", secs / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_below_each_other_and_lines_end_with_their_last_letter() {
        let rows = [["web".into(), "10 GiB".into()], ["shop-uploads".into(), "1 GiB".into()]];
        let expected = "NAME           SIZE\nweb            10 GiB\nshop-uploads   1 GiB\n";
        assert_eq!(table(["NAME", "SIZE"], &rows), expected);
    }

    #[test]
    fn a_column_with_nothing_in_it_is_left_out_but_an_empty_list_shows_all() {
        let rows = [["web".into(), String::new()]];
        assert_eq!(table(["NAME", "REASON"], &rows), "NAME\nweb\n");
        assert_eq!(table(["NAME", "REASON"], &[]), "NAME   REASON\n");
    }

    #[test]
    fn texts_from_elsewhere_cannot_steer_the_terminal() {
        let rows = [["a\u{1b}[2Jb\nc".to_owned()]];
        assert_eq!(table(["X"], &rows), "X\na?[2Jb?c\n");
    }

    #[test]
    fn values_stand_below_each_other_also_when_they_have_several_lines() {
        let shown = sections(&[
            &[("name", "web".into())],
            &[("labels", "a=b\nc=d".into()), ("uid", "0".into())],
        ]);
        assert_eq!(shown, "name:    web\n\nlabels:  a=b\n         c=d\nuid:     0\n");
    }

    #[test]
    fn ages_are_told_in_their_largest_unit() {
        let now: Timestamp = "2024-05-03T10:00:00Z".parse().expect("a time");
        for (time, said) in [
            ("2024-05-03T09:59:48Z", "12s"),
            ("2024-05-03T09:55:00.5Z", "5m"),
            ("2024-05-02T10:00:00Z", "24h"),
            ("2024-03-24T10:00:00Z", "40d"),
            ("2024-05-03T10:00:09Z", "0s"),
            ("soon", "-"),
        ] {
            assert_eq!(age(time, now), said, "{time}");
        }
    }
}
