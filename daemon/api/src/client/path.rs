//! Paths and queries of requests, with every name and value percent-encoded. Judges nothing:
//! whether a name is a good one is the API's to say.

use std::fmt::Write;

/// `segments` joined by slashes behind `/v1`; no segment can leave its place.
pub(super) fn path(segments: &[&str]) -> String {
    let mut path = String::from("/v1");
    for segment in segments {
        path.push('/');
        encode(segment, &mut path);
    }
    path
}

/// Appends `key=value` to a path, behind `?` or `&`.
pub(super) fn add_query(path: &mut String, key: &str, value: &str) {
    path.push(if path.contains('?') { '&' } else { '?' });
    path.push_str(key);
    path.push('=');
    encode(value, path);
}

fn encode(text: &str, into: &mut String) {
    // Servers and proxies take "." and ".." as directories unless the dots are encoded.
    let only_dots = text.bytes().all(|b| b == b'.');
    for byte in text.bytes() {
        let plain = byte.is_ascii_alphanumeric() || b"-_~".contains(&byte);
        if plain || (byte == b'.' && !only_dots) {
            into.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(into, "%{byte:02X}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_can_leave_its_segment() {
        assert_eq!(path(&["volumes", "web.old-2"]), "/v1/volumes/web.old-2");
        assert_eq!(path(&["volumes", ".."]), "/v1/volumes/%2E%2E");
        assert_eq!(path(&["volumes", "../x?y#z"]), "/v1/volumes/..%2Fx%3Fy%23z");
        assert_eq!(path(&["volumes", "é\n%"]), "/v1/volumes/%C3%A9%0A%25");
    }

    #[test]
    fn queries_are_joined_and_encoded() {
        let mut path = path(&["volumes"]);
        add_query(&mut path, "label", "a=b&c");
        add_query(&mut path, "node", "n 1");
        assert_eq!(path, "/v1/volumes?label=a%3Db%26c&node=n%201");
    }
}
