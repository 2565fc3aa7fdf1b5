//! The OpenAPI document, made from the handlers, and the routes, made from the same list: what
//! is served is documented.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use cobalt_api::error::Code;
use cobalt_api::shapes;
use cobalt_api::wire::{ChangeEvent, GoneVolume, Previous, Problem};
use serde_json::{Map, Value};
use utoipa::ToSchema;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::schema::{Components, ComponentsBuilder, ObjectBuilder, Schema, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    ContentBuilder, InfoBuilder, OpenApiBuilder, OpenApiVersion, PathsBuilder, Ref, RefOr,
    Response, ResponseBuilder,
};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{
    Api, ApiOptions, callbacks, change, consumers, create, delete, events, metrics, nodes, status,
    tokens, volumes,
};

/// The codes that any handler may give which asks who calls.
const ANYWHERE: [Code; 4] =
    [Code::Unauthenticated, Code::Forbidden, Code::StoreUnavailable, Code::Internal];
/// The codes that are given where no handler is.
const NOWHERE: [Code; 2] = [Code::RouteNotFound, Code::MethodNotAllowed];

/// Names the problems that a handler may give, beside those that any may.
macro_rules! problems {
    ($name:ident: $($code:ident),* $(,)?) => {
        $crate::http::document::problem_responses!(
            $name, $crate::http::document::anywhere(&[$(cobalt_api::error::Code::$code),*])
        );
    };
}

/// The same for a handler that does not ask who calls.
macro_rules! open_problems {
    ($name:ident: $($code:ident),* $(,)?) => {
        $crate::http::document::problem_responses!(
            $name, vec![$(cobalt_api::error::Code::$code),*]
        );
    };
}

macro_rules! problem_responses {
    ($name:ident, $codes:expr) => {
        #[doc = "The problems of one route, for the document."]
        struct $name;

        impl utoipa::IntoResponses for $name {
            fn responses()
            -> std::collections::BTreeMap<String, utoipa::openapi::RefOr<utoipa::openapi::Response>>
            {
                $crate::http::document::responses(&$codes)
            }
        }
    };
}

pub(super) use {open_problems, problem_responses, problems};

/// All routes with their documentation.
pub(super) fn routes(options: &ApiOptions) -> OpenApiRouter<Api> {
    let info = InfoBuilder::new()
        .title("Cobalt")
        .version(options.version)
        .description(Some(description()))
        .build();
    let base = OpenApiBuilder::new()
        .openapi(OpenApiVersion::Version31)
        .info(info)
        .paths(PathsBuilder::new())
        .components(Some(components()))
        .security(Some([SecurityRequirement::new("bearer", [] as [&str; 0])]))
        .build();
    OpenApiRouter::with_openapi(base)
        .routes(routes!(
            create::create_volume,
            volumes::read_volume,
            change::change_volume,
            delete::delete_volume
        ))
        .routes(routes!(volumes::list_volumes))
        .routes(routes!(consumers::register_consumer, consumers::release_consumer))
        .routes(routes!(events::listen))
        .routes(routes!(nodes::list_nodes))
        .routes(routes!(nodes::read_node))
        .routes(routes!(status::status))
        .routes(routes!(tokens::create_token, tokens::list_tokens))
        .routes(routes!(tokens::revoke_token))
        .routes(routes!(callbacks::create_callback, callbacks::list_callbacks))
        .routes(routes!(callbacks::delete_callback))
        .routes(routes!(metrics::metrics))
        .routes(routes!(status::health))
        .routes(routes!(status::ready))
        .routes(routes!(read_document))
}

/// This document
#[utoipa::path(
    get, path = "/v1/openapi.json", operation_id = "document", tag = "status", security(()),
    responses((status = 200, description = "OpenAPI 3.1.", body = Object)),
)]
async fn read_document(State(api): State<Api>) -> impl IntoResponse {
    let text = api.document.get_or_init(|| {
        let document = serde_json::to_value(routes(&api.options).into_openapi());
        corrected(document.expect("the document has only text keys")).to_string()
    });
    ([(header::CONTENT_TYPE, "application/json")], text.clone())
}

/// What the macros cannot say: a parameter that may be left out is never null, and a wish may
/// have no body at all.
fn corrected(mut document: Value) -> Value {
    let items = document["paths"].as_object_mut().into_iter().flat_map(Map::values_mut);
    let operations = items.filter_map(Value::as_object_mut).flat_map(Map::values_mut);
    for operation in operations {
        let parameters = operation.get_mut("parameters").and_then(Value::as_array_mut);
        for schema in parameters.into_iter().flatten().filter_map(|p| p.get_mut("schema")) {
            if let Some(kinds) = schema.get_mut("type").and_then(Value::as_array_mut) {
                kinds.retain(|kind| kind != "null");
            }
            if let Some(choices) = schema.get_mut("oneOf").and_then(Value::as_array_mut) {
                choices.retain(|choice| choice["type"] != "null");
            }
        }
        if operation["operationId"] == "createVolume" {
            operation["requestBody"]["required"] = false.into();
        }
    }
    document
}

pub(super) fn anywhere(codes: &[Code]) -> Vec<Code> {
    [codes, &ANYWHERE].concat()
}

/// The responses for some codes, one for each status.
pub(super) fn responses(codes: &[Code]) -> BTreeMap<String, RefOr<Response>> {
    let mut by_status: BTreeMap<u16, Vec<Code>> = BTreeMap::new();
    for code in codes {
        let same = by_status.entry(code.status()).or_default();
        if !same.contains(code) {
            same.push(*code);
        }
    }
    let response =
        |(status, codes): (u16, Vec<Code>)| (status.to_string(), RefOr::T(response(&codes)));
    by_status.into_iter().map(response).collect()
}

fn response(codes: &[Code]) -> Response {
    let told: Vec<String> =
        codes.iter().map(|code| format!("`{}`: {}", code.as_str(), meaning(*code))).collect();
    let schema = Ref::from_schema_name(Problem::name());
    let mut response = ResponseBuilder::new()
        .description(told.join(" "))
        .content("application/problem+json", ContentBuilder::new().schema(Some(schema)).build());
    let header = |kind: Type, said: &str| {
        HeaderBuilder::new()
            .schema(Some(ObjectBuilder::new().schema_type(kind).build()))
            .description(Some(said))
            .build()
    };
    if codes.iter().any(|code| code.retry_after_secs().is_some()) {
        let said = "After how many seconds the same request may succeed.";
        response = response.header("Retry-After", header(Type::Integer, said));
    }
    if codes.contains(&Code::Unauthenticated) {
        response = response.header("WWW-Authenticate", header(Type::String, "`Bearer`"));
    }
    if codes.contains(&Code::MethodNotAllowed) {
        response = response.header("Allow", header(Type::String, "The methods there are."));
    }
    response.build()
}

fn shape<T: ToSchema>() -> (String, RefOr<Schema>) {
    (T::name().into_owned(), T::schema())
}

fn components() -> Components {
    let mut schemas = vec![
        shape::<Problem>(),
        // What only parameters are made of, the routes do not bring along.
        shape::<shapes::Name>(),
        shape::<shapes::Id>(),
        shape::<shapes::UntilReady>(),
        shape::<shapes::UntilGone>(),
        shape::<shapes::UntilAdmitted>(),
        // What only events carry.
        shape::<GoneVolume>(),
        shape::<ChangeEvent>(),
        shape::<Previous>(),
        shape::<shapes::Pending>(),
        shape::<shapes::Revision>(),
        shape::<shapes::Label>(),
    ];
    Problem::schemas(&mut schemas);
    let scheme = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .bearer_format("cobalt_<id>_<secret>")
        .description(Some(
            "Needed on TCP. On the unix socket the file's permissions decide. A `viewer` reads; \
             a `consumer` also makes, changes and deletes volumes; an `admin` may do everything \
             and is needed for tokens and callbacks.",
        ))
        .build();
    let elsewhere = |code: Code| (code.as_str().to_owned(), response(&[code]));
    let mut components = ComponentsBuilder::new().schemas_from_iter(schemas);
    for (name, response) in NOWHERE.map(elsewhere) {
        components = components.response(name, response);
    }
    components.security_scheme("bearer", SecurityScheme::Http(scheme)).build()
}

fn description() -> String {
    let mut text = String::from(
        "Docker volumes on btrfs storage nodes. Errors are `application/problem+json` with a \
         stable `code`:\n\n| code | status | meaning |\n|---|---|---|\n",
    );
    for code in Code::ALL {
        text += &format!("| `{}` | {} | {} |\n", code.as_str(), code.status(), meaning(code));
    }
    text
}

fn meaning(code: Code) -> &'static str {
    match code {
        Code::MalformedBody => "The body is not the JSON that is wanted, or did not come in time.",
        Code::BodyTooLarge => "The body is larger than any request needs.",
        Code::BadParameter => "A query parameter or header is wrong.",
        Code::InvalidField => "The value of `field` cannot be taken.",
        Code::Unauthenticated => "No token, or one that is not known.",
        Code::Forbidden => "The token's role does not allow it, or the host is another token's.",
        Code::AccessDenied => "The volume's access rules do not let this host in.",
        Code::RouteNotFound => "No such path.",
        Code::MethodNotAllowed => "The path does not take this method.",
        Code::VolumeNotFound => "No such volume.",
        Code::NodeNotFound => "No such node.",
        Code::TokenNotFound => "No such token.",
        Code::CallbackNotFound => "No such callback.",
        Code::VolumeDiffers => "Another wish holds under this name; `differences` tells where.",
        Code::BeingDeleted => "The volume is on its way out.",
        Code::InUse => "Some host uses the volume.",
        Code::TooManyConsumers => "As many hosts use the volume as may at a time.",
        Code::RevisionMoved => "The record is not at the revision of If-Match.",
        Code::StillPending => "It was accepted and is not done yet; ask again.",
        Code::StoreUnavailable => "etcd does not answer.",
        Code::NoRoom => "No node has room.",
        Code::Internal => "A fault of Cobalt's own.",
    }
}
