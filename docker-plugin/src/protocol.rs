//! Docker's volume plugin protocol: the shapes on the wire and nothing of what they mean here.
//!
//! Tolerant in what it takes: dockerd sends no Content-Type, `Opts` may be null, unknown fields
//! and whatever follows the first JSON value are ignored.

use std::collections::BTreeMap;
use std::time::Duration;

use hyper::body::Bytes;
use serde::{Deserialize, Serialize};

/// A call of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// What the plugin is.
    Activate,
    /// Make a volume.
    Create,
    /// Describe one volume.
    Get,
    /// Name all volumes.
    List,
    /// Delete a volume.
    Remove,
    /// Where a volume is mounted.
    Path,
    /// Mount a volume for one user of it.
    Mount,
    /// One user is done.
    Unmount,
    /// Whether volumes are known to more than this host.
    Capabilities,
}

impl Call {
    /// All of them.
    pub const ALL: [Call; 9] = [
        Call::Activate,
        Call::Create,
        Call::Get,
        Call::List,
        Call::Remove,
        Call::Path,
        Call::Mount,
        Call::Unmount,
        Call::Capabilities,
    ];

    /// Where it is posted to.
    pub fn path(self) -> &'static str {
        match self {
            Call::Activate => "/Plugin.Activate",
            Call::Create => "/VolumeDriver.Create",
            Call::Get => "/VolumeDriver.Get",
            Call::List => "/VolumeDriver.List",
            Call::Remove => "/VolumeDriver.Remove",
            Call::Path => "/VolumeDriver.Path",
            Call::Mount => "/VolumeDriver.Mount",
            Call::Unmount => "/VolumeDriver.Unmount",
            Call::Capabilities => "/VolumeDriver.Capabilities",
        }
    }

    /// The call posted to this path.
    pub fn parse(path: &str) -> Option<Call> {
        Call::ALL.into_iter().find(|call| call.path() == path)
    }

    /// Within what time it is answered: dockerd gives up on Create and Mount after 120 s, on
    /// all others after 60 s, and takes what comes later for nothing.
    pub fn limit(self) -> Duration {
        match self {
            Call::Create | Call::Mount => Duration::from_secs(110),
            Call::Activate
            | Call::Get
            | Call::List
            | Call::Remove
            | Call::Path
            | Call::Unmount
            | Call::Capabilities => Duration::from_secs(50),
        }
    }

    /// Whether its body is looked at; Podman posts List without one.
    pub fn has_request(self) -> bool {
        match self {
            Call::Activate | Call::List | Call::Capabilities => false,
            Call::Create | Call::Get | Call::Remove | Call::Path | Call::Mount | Call::Unmount => {
                true
            }
        }
    }
}

/// What a call is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Request {
    /// The volume's name, as the user typed it.
    #[serde(rename = "Name")]
    pub name: String,
    /// Who mounts: one text per container, destination and start.
    #[serde(rename = "ID", default, deserialize_with = "or_default")]
    pub id: String,
    /// The `-o` options.
    #[serde(rename = "Opts", default, deserialize_with = "or_default")]
    pub opts: BTreeMap<String, String>,
}

fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// A body that is no request.
#[derive(Debug, thiserror::Error)]
pub enum BadRequest {
    /// Nothing in it: what dockerd sends when it repeats a call whose connection broke.
    #[error("the request has no body, as when dockerd repeats a call that was cut; run it again")]
    Empty,
    /// Something else.
    #[error("the request is not what Docker's volume protocol says: {0}")]
    NotJson(serde_json::Error),
}

/// Reads the first JSON value of a body.
///
/// # Errors
/// When there is none, or it has no `Name`.
pub fn parse(body: &[u8]) -> Result<Request, BadRequest> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Err(BadRequest::Empty);
    }
    let mut values = serde_json::Deserializer::from_slice(body).into_iter();
    values.next().unwrap_or_else(|| Ok(Request::default())).map_err(BadRequest::NotJson)
}

/// A successful answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// To Activate.
    Activated,
    /// To Create, Remove and Unmount.
    Done,
    /// To Get: the body, from [`Volume::body`].
    Volume(Bytes),
    /// To List: the body, from [`List::body`].
    Volumes(Bytes),
    /// To Path and Mount: an absolute path, or an empty text when it is not mounted.
    Mountpoint(String),
    /// To Capabilities.
    Capabilities,
}

/// A volume as Get describes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Volume<'a, S> {
    /// The name that was asked for: dockerd believes whatever stands here.
    #[serde(rename = "Name")]
    pub name: &'a str,
    /// Where it is mounted.
    #[serde(rename = "Mountpoint", skip_serializing_if = "Option::is_none")]
    pub mountpoint: Option<&'a str>,
    /// RFC 3339. Anything else makes dockerd take the whole answer for "no such volume".
    #[serde(rename = "CreatedAt", skip_serializing_if = "Option::is_none")]
    pub created_at: Option<&'a str>,
    /// Shown verbatim by `docker volume inspect`; it must become an object.
    #[serde(rename = "Status")]
    pub status: S,
}

impl<S: Serialize> Volume<'_, S> {
    /// The answer to Get.
    pub fn body(&self) -> Bytes {
        #[derive(Serialize)]
        struct Answer<'a, T> {
            #[serde(rename = "Volume")]
            volume: &'a T,
        }
        body(serde_json::to_vec(&Answer { volume: self }))
    }
}

/// A volume as List names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Listed<'a> {
    /// Its name.
    #[serde(rename = "Name")]
    pub name: &'a str,
    /// Where it is mounted.
    #[serde(rename = "Mountpoint", skip_serializing_if = "Option::is_none")]
    pub mountpoint: Option<&'a str>,
}

/// The answer to List, written volume by volume.
#[derive(Debug)]
pub struct List(serde_json::Result<Vec<u8>>);

impl List {
    const HEAD: &[u8] = br#"{"Volumes":["#;

    /// Without volumes; there is room for so many bytes.
    pub fn with_capacity(bytes: usize) -> List {
        let mut json = Vec::with_capacity(bytes);
        json.extend_from_slice(List::HEAD);
        List(Ok(json))
    }

    /// One more volume.
    pub fn add(&mut self, listed: Listed<'_>) {
        let Ok(json) = &mut self.0 else { return };
        if json.len() > List::HEAD.len() {
            json.push(b',');
        }
        if let Err(error) = serde_json::to_writer(json, &listed) {
            self.0 = Err(error);
        }
    }

    /// The answer to List.
    pub fn body(self) -> Bytes {
        body(self.0.map(|mut json| {
            json.extend_from_slice(b"]}");
            json
        }))
    }
}

impl Reply {
    /// What is sent: JSON and a newline.
    pub fn body(self) -> Bytes {
        use serde_json::{json, to_vec};
        body(match self {
            Reply::Volume(body) | Reply::Volumes(body) => return body,
            Reply::Activated => to_vec(&json!({ "Implements": ["VolumeDriver"] })),
            Reply::Done => to_vec(&json!({})),
            Reply::Mountpoint(path) => to_vec(&json!({ "Mountpoint": path })),
            Reply::Capabilities => to_vec(&json!({ "Capabilities": { "Scope": "global" } })),
        })
    }
}

fn body(json: serde_json::Result<Vec<u8>>) -> Bytes {
    // Maps with text keys can always be written; an empty object would pass for success.
    let mut json = json.unwrap_or_else(|error| error_json(&error.to_string()));
    json.push(b'\n');
    Bytes::from(json)
}

/// The JSON of an error: one line, because dockerd passes newlines on to the terminal.
pub fn error_json(sentence: &str) -> Vec<u8> {
    let line: String =
        sentence.chars().map(|c| if c.is_control() { ' ' } else { c }).take(1000).collect();
    serde_json::to_vec(&serde_json::json!({ "Err": line }))
        .unwrap_or_else(|_| br#"{"Err":"cobalt: the error cannot be shown"}"#.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_options_are_no_options() {
        let request = parse(br#"{"Name":"web","Opts":null}"#).expect("a request");
        assert_eq!(request, Request { name: "web".into(), ..Request::default() });
    }

    #[test]
    fn unknown_fields_and_what_follows_the_first_value_are_ignored() {
        let request = parse(b"{\"Name\":\"web\",\"ID\":\"a\",\"New\":[1]}\n}").expect("a request");
        assert_eq!((request.name.as_str(), request.id.as_str()), ("web", "a"));
    }

    #[test]
    fn a_missing_body_is_never_a_name() {
        assert!(matches!(parse(b" \n"), Err(BadRequest::Empty)));
        for body in ["{}", "null", "[]", "{\"Name\":null}", "{\"Name\":7}", "{\"Name\":", "\u{0}"] {
            assert!(matches!(parse(body.as_bytes()), Err(BadRequest::NotJson(_))), "{body}");
        }
    }

    #[test]
    fn nesting_without_end_is_refused() {
        let body = format!("{{\"Name\":\"a\",\"X\":{}", "[".repeat(100_000));
        assert!(parse(body.as_bytes()).is_err());
    }

    #[test]
    fn an_error_is_one_line() {
        let json = String::from_utf8(error_json("a\nb\u{1b}[31m \"q\"")).expect("text");
        assert_eq!(json, "{\"Err\":\"a b [31m \\\"q\\\"\"}");
    }

    #[test]
    fn an_empty_list_is_a_list() {
        assert_eq!(&*List::with_capacity(0).body(), b"{\"Volumes\":[]}\n");
    }

    #[test]
    fn a_list_of_any_names_is_json() {
        let mut list = List::with_capacity(0);
        list.add(Listed { name: "a\"\n", mountpoint: None });
        list.add(Listed { name: "b", mountpoint: Some("/m/b") });
        let wanted = "{\"Volumes\":[{\"Name\":\"a\\\"\\n\"},\
                      {\"Name\":\"b\",\"Mountpoint\":\"/m/b\"}]}\n";
        assert_eq!(list.body(), wanted);
    }

    #[test]
    fn every_call_has_a_path_of_its_own() {
        for call in Call::ALL {
            assert_eq!(Call::parse(call.path()), Some(call));
        }
    }
}
