//! Reading storage nodes, from the followed view alone.

use axum::Json;
use axum::extract::State;
use cobalt_api::error::Code;
use cobalt_api::{shapes, wire};
use cobalt_core::NodeName;

use super::Api;
use super::document::problems;
use super::failure::Failure;
use super::params::{Named, Params};
use super::present;

problems!(ReadProblems: BadParameter, InvalidField, NodeNotFound, StoreUnavailable);
problems!(ListProblems: BadParameter, StoreUnavailable);

/// List nodes
#[utoipa::path(
    get, path = "/v1/nodes", operation_id = "listNodes", tag = "nodes",
    responses((status = 200, description = "All nodes.", body = wire::NodeList), ListProblems),
)]
pub(super) async fn list_nodes(
    State(api): State<Api>,
    params: Params,
) -> Result<Json<wire::NodeList>, Failure> {
    params.done()?;
    api.viewable()?;
    let age_secs = api.age_secs();
    let mut nodes: Vec<_> = api
        .follower
        .read(|view| view.nodes().map(|node| present::node(view, &node.value)).collect());
    nodes.sort_by(|a: &wire::Node, b: &wire::Node| a.name.cmp(&b.name));
    Ok(Json(wire::NodeList { nodes, age_secs }))
}

/// Read a node
#[utoipa::path(
    get, path = "/v1/nodes/{name}", operation_id = "readNode", tag = "nodes",
    params(("name" = shapes::Name, Path, description = "The node.")),
    responses((status = 200, description = "The node.", body = wire::Node), ReadProblems),
)]
pub(super) async fn read_node(
    State(api): State<Api>,
    Named(name): Named<NodeName>,
    params: Params,
) -> Result<Json<wire::Node>, Failure> {
    params.done()?;
    api.viewable()?;
    let age = api.follower.age();
    let found = api.follower.read(|view| {
        let named = view.nodes().find(|node| node.value.name == name);
        named.map(|node| present::node(view, &node.value))
    });
    match (found, age) {
        (Some(node), _) => Ok(Json(node)),
        (None, None) => {
            Err(Failure::new(Code::NodeNotFound, format!("there is no node \"{name}\"")))
        }
        (None, Some(_)) => {
            let said =
                format!("whether there is a node \"{name}\" is not known: etcd does not answer");
            Err(Failure::new(Code::StoreUnavailable, said))
        }
    }
}
