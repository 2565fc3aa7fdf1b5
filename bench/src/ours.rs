//! The same things done by Cobalt, through its API as everybody does them.

use crate::http::Client;
use crate::{Fault, SIZE};

/// Makes a volume and waits until it is ready.
pub(crate) fn create(client: &mut Client, name: &str) -> Result<(), Fault> {
    create_sized(client, name, SIZE)
}

/// The same with another size.
pub(crate) fn create_sized(client: &mut Client, name: &str, size: u64) -> Result<(), Fault> {
    let target = format!("/v1/volumes/{name}?wait=ready");
    client.expect(&[201], "PUT", &target, &format!("{{\"size\":\"{size}\"}}"))?;
    Ok(())
}

/// Gives it another size and waits until that holds.
pub(crate) fn resize(client: &mut Client, name: &str, size: u64) -> Result<(), Fault> {
    let target = format!("/v1/volumes/{name}?wait=ready");
    client.expect(&[200], "PATCH", &target, &format!("{{\"size\":\"{size}\"}}"))?;
    Ok(())
}

/// Gives it another size and does not wait.
pub(crate) fn order_resize(client: &mut Client, name: &str, size: u64) -> Result<(), Fault> {
    let target = format!("/v1/volumes/{name}");
    client.expect(&[200, 202], "PATCH", &target, &format!("{{\"size\":\"{size}\"}}"))?;
    Ok(())
}

/// Reads it.
pub(crate) fn get(client: &mut Client, name: &str) -> Result<(), Fault> {
    client.expect(&[200], "GET", &format!("/v1/volumes/{name}"), "")?;
    Ok(())
}

/// Lists all of them, when they fit one page; how many they are.
pub(crate) fn list(client: &mut Client) -> Result<usize, Fault> {
    let page = client.expect(&[200], "GET", "/v1/volumes?limit=1000", "")?;
    let page: serde_json::Value = serde_json::from_slice(&page)?;
    Ok(page["volumes"].as_array().ok_or("no list of volumes")?.len())
}

/// Deletes it and waits until it is gone.
pub(crate) fn delete(client: &mut Client, name: &str) -> Result<(), Fault> {
    client.expect(&[204], "DELETE", &format!("/v1/volumes/{name}?wait=gone"), "")?;
    Ok(())
}
