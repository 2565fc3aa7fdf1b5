//! Names given by people, and labels. Parsed once, at the door.

use std::collections::BTreeMap;
use std::fmt;

use crate::bytes::shortened;

/// The longest name in bytes. Docker's anonymous volumes have 64; Compose joins two names.
pub const MAX_NAME: usize = 128;
/// How many labels one volume or node may carry.
pub const MAX_LABELS: usize = 64;
/// The longest label key or value in bytes.
const MAX_LABEL: usize = 128;

/// A text that cannot be a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadName {
    text: String,
    why: &'static str,
}

impl fmt::Display for BadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\" cannot be a name: {}", shortened(&self.text), self.why)
    }
}

impl std::error::Error for BadName {}

/// Safe as a path component, a command argument, an etcd key and an export line.
fn check(text: &str) -> Result<(), BadName> {
    let bad = |why| Err(BadName { text: text.to_owned(), why });
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    if text.is_empty() {
        return bad("it is empty");
    }
    if text.len() > MAX_NAME {
        return bad("it is longer than 128 characters");
    }
    if !text.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return bad("it must start with a letter or a digit");
    }
    if !text.bytes().all(plain) {
        return bad("only letters, digits, '.', '_' and '-' may stand in it");
    }
    Ok(())
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = BadName;

            fn from_str(text: &str) -> Result<$name, BadName> {
                check(text)?;
                Ok($name(text.to_owned()))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

name! {
    /// What people call a volume. It may change; the id does not.
    VolumeName
}
name! {
    /// What people call a storage node.
    NodeName
}
name! {
    /// Which of several clusters in one etcd is meant.
    ClusterName
}

/// Labels of a volume or a node, checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels(BTreeMap<String, String>);

/// A label that cannot be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadLabel {
    label: String,
    why: &'static str,
}

impl fmt::Display for BadLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "label \"{}\": {}", shortened(&self.label), self.why)
    }
}

impl std::error::Error for BadLabel {}

impl Labels {
    /// Adds or replaces one label.
    ///
    /// # Errors
    /// When the key is not `[A-Za-z0-9][A-Za-z0-9._/-]*`, the value holds control characters or
    /// a comma, either is longer than 128 bytes, or there are [`MAX_LABELS`] already.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), BadLabel> {
        let bad = |why| Err(BadLabel { label: format!("{key}={value}"), why });
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"._/-".contains(&b);
        if !key.starts_with(|c: char| c.is_ascii_alphanumeric()) || !key.bytes().all(plain) {
            return bad(
                "the key needs letters, digits, '.', '_', '/' or '-', a letter or digit first",
            );
        }
        if key.len() > MAX_LABEL || value.len() > MAX_LABEL {
            return bad("key and value may have 128 characters each");
        }
        if value.chars().any(|c| c.is_control() || c == ',') {
            return bad("the value may not hold commas or control characters");
        }
        if self.0.len() >= MAX_LABELS && !self.0.contains_key(key) {
            return bad("there are 64 labels already");
        }
        self.0.insert(key.to_owned(), value.to_owned());
        Ok(())
    }

    /// Reads `key=value`; a key alone has the empty value.
    ///
    /// # Errors
    /// As [`Labels::set`].
    pub fn set_text(&mut self, text: &str) -> Result<(), BadLabel> {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        self.set(key, value)
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// All labels in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown: Vec<String> = self.iter().map(|(key, value)| format!("{key}={value}")).collect();
        f.pad(&shown.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_be_paths_options_or_lines_are_refused() {
        let long = "a".repeat(129);
        for text in ["", "..", ".", "a/b", "-rf", "a b", "a\nb", "a\0b", "%2e%2e/", "*", "é", &long]
        {
            assert!(text.parse::<VolumeName>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn ordinary_names_and_dockers_anonymous_ones_are_taken() {
        let anonymous = "0123456789abcdef".repeat(4);
        for text in ["w", "web", "shop_uploads-2.old", "2024", &anonymous] {
            assert!(text.parse::<VolumeName>().is_ok(), "{text}");
        }
    }

    #[test]
    fn a_refused_name_is_quoted_without_its_control_characters() {
        let error = "a\nb".parse::<VolumeName>().map_err(|e| e.to_string());
        let said =
            "\"a?b\" cannot be a name: only letters, digits, '.', '_' and '-' may stand in it";
        assert_eq!(error, Err(said.into()));
    }

    #[test]
    fn labels_have_a_limit_in_number_and_length() {
        let mut labels = Labels::default();
        for i in 0..MAX_LABELS {
            labels.set(&format!("k{i}"), "v").expect("room for it");
        }
        assert!(labels.set("one-more", "v").is_err());
        assert!(labels.set("k0", "other").is_ok());
        assert!(labels.set("k0", &"v".repeat(129)).is_err());
    }
}
