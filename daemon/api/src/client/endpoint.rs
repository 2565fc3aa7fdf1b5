//! Where the API listens: one address as people write it. Opens nothing.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use http::Uri;

/// One address of the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `unix:///path`: a socket on this machine. File permissions decide; no token is sent.
    Unix(PathBuf),
    /// `http://host:port` or `https://host:port`: a bearer token decides.
    Tcp(Uri),
}

/// A text that is not an address of the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadEndpoint {
    text: String,
    why: &'static str,
}

impl fmt::Display for BadEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\" is not an address of the API: {}", self.text.escape_debug(), self.why)
    }
}

impl std::error::Error for BadEndpoint {}

impl FromStr for Endpoint {
    type Err = BadEndpoint;

    fn from_str(text: &str) -> Result<Endpoint, BadEndpoint> {
        let bad = |why| BadEndpoint { text: text.to_owned(), why };
        if let Some(path) = text.strip_prefix("unix://") {
            return match path.starts_with('/') && !path.contains('\0') {
                true => Ok(Endpoint::Unix(PathBuf::from(path))),
                false => Err(bad("after unix:// comes an absolute path, as in unix:///run/a.sock")),
            };
        }
        if !text.starts_with("http://") && !text.starts_with("https://") {
            return Err(bad("write unix:///path, http://host:port or https://host:port"));
        }
        let uri: Uri = text.parse().map_err(|_| bad("write it as https://host:port"))?;
        let authority = uri.authority().ok_or_else(|| bad("the host is missing"))?;
        if authority.as_str().contains('@') {
            return Err(bad("it may hold no user or password; the token comes from a file"));
        }
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(bad("nothing may follow the port"));
        }
        Ok(Endpoint::Tcp(uri))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Unix(path) => write!(f, "unix://{}", path.display()),
            Endpoint::Tcp(uri) => match uri.authority() {
                Some(authority) => {
                    write!(f, "{}://{authority}", uri.scheme_str().unwrap_or("http"))
                }
                None => write!(f, "{uri}"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_reads_back_as_it_was_shown() {
        for text in [
            "unix:///run/cobalt/cobalt.sock",
            "http://h:7420",
            "http://[::1]:7420",
            "https://h:7420",
        ] {
            let endpoint: Endpoint = text.parse().expect("an endpoint");
            assert_eq!(endpoint.to_string(), text);
        }
        assert_eq!("http://h:1/".parse::<Endpoint>().expect("one").to_string(), "http://h:1");
    }

    #[test]
    fn what_is_no_address_is_refused_with_the_reason() {
        for text in [
            "",
            "h:7420",
            "/run/cobalt/cobalt.sock",
            "unix://relative",
            "unix://",
            "http://",
            "http://h:7420/v1",
            "http://h:7420/?a=b",
            "http://user:secret@h:7420",
            "https://",
            "https://user:secret@h:7420",
            "ftp://h",
        ] {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
    }
}
