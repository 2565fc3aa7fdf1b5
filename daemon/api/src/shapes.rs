//! How the words of a request are made, as the OpenAPI document tells it. Nothing is parsed here:
//! the one who takes a word says what is wrong with it.

#![expect(dead_code, reason = "only their descriptions are used")]

use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{OneOfBuilder, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::wire;

/// A letter or digit, then letters, digits, `.`, `_` or `-`; 128 at most.
#[derive(ToSchema)]
#[schema(pattern = "^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length = 128)]
pub struct Name(String);

/// A UUID in lower case.
#[derive(ToSchema)]
#[schema(pattern = "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$")]
pub struct Id(String);

/// Waits until it is so; left out, the answer comes at once.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub enum UntilReady {
    /// The volume is as wished.
    Ready,
}

/// Waits until it is so; left out, the answer comes at once.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub enum UntilAdmitted {
    /// The volume's export lets the host in.
    Admitted,
}

/// Waits until it is so; left out, the answer comes at once.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub enum UntilGone {
    /// Nothing of the volume is left.
    Gone,
}

/// What becomes of a new wish that no node has room for.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub enum Pending {
    /// It is served when there is room.
    Keep,
    /// It is withdrawn.
    Refuse,
}

/// One revision, as `"1234"`, or `*` for any.
#[derive(ToSchema)]
#[schema(pattern = r#"^(\*|[0-9]{1,18}|"[0-9]{1,18}")$"#)]
pub struct Revision(String);

/// A label's key.
#[derive(ToSchema)]
#[schema(pattern = "^[A-Za-z0-9][A-Za-z0-9._/-]*$", max_length = 128)]
pub struct LabelKey(String);

/// A label's value: up to 128 bytes without commas and control characters.
#[derive(ToSchema)]
#[schema(pattern = "^[^,\u{0}-\u{1f}\u{7f}-\u{9f}]*$", max_length = 128)]
pub struct LabelValue(String);

/// `key=value`, or `key` for any value.
#[derive(ToSchema)]
#[schema(pattern = "^[A-Za-z0-9][A-Za-z0-9._/-]{0,127}(=[^,\u{0}-\u{1f}\u{7f}-\u{9f}]{0,128})?$")]
pub struct Label(String);

/// `key=value` or `key!=value`.
#[derive(ToSchema)]
#[schema(pattern = "^[A-Za-z0-9][A-Za-z0-9._/-]{0,127}!?=[^,\u{0}-\u{1f}\u{7f}-\u{9f}]{0,128}$")]
pub struct Constraint(String);

impl PartialSchema for wire::Size {
    fn schema() -> RefOr<Schema> {
        let said = "A number of bytes, or a text such as `10G` (powers of 1024); 1 MiB at least.";
        let either = OneOfBuilder::new().item(ByteCount::schema()).item(SizeText::schema());
        RefOr::T(either.description(Some(said)).build().into())
    }
}

impl ToSchema for wire::Size {}

/// A number of bytes, 1 MiB at least.
#[derive(ToSchema)]
#[schema(minimum = 1048576, maximum = 9223372036854775807u64)]
pub struct ByteCount(u64);

/// 1 MiB at least: digits, and a unit as in `10G`, `10GB` or `10GiB`.
#[derive(ToSchema)]
#[schema(pattern = "^0*[1-9][0-9]{0,18}([kKmMgGtTpP]([iI]?[bB])?|[bB])?$")]
pub struct SizeText(String);

/// How btrfs compresses new data.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub enum Compression {
    /// The usual choice.
    Zstd,
    /// Faster, larger.
    Lzo,
    /// Slower.
    Zlib,
    /// Not at all.
    None,
}

/// The number of a user or group; the highest stands for "leave it" and is none.
#[derive(ToSchema)]
#[schema(minimum = 0, maximum = 4294967294u64)]
pub struct Owner(u32);

/// Permission bits in octal, up to `7777`.
#[derive(ToSchema)]
#[schema(pattern = "^0*[0-7]{1,4}$")]
pub struct Mode(String);

/// One line.
#[derive(ToSchema)]
#[schema(pattern = "^[^\u{0}-\u{1f}\u{7f}-\u{9f}]*$", max_length = 200)]
pub struct Description(String);

/// An address such as `10.0.0.7` or `fd00::7`.
#[derive(ToSchema)]
#[schema(pattern = "^[0-9a-fA-F:.]{2,45}$", max_length = 45)]
pub struct Address(String);

/// An address, or a network such as `10.0.0.0/24`.
#[derive(ToSchema)]
#[schema(pattern = "^[0-9a-fA-F:.]{2,45}(/[0-9]{1,3})?$", max_length = 49)]
pub struct Network(String);

/// One option of mount(8) or nfs(5).
#[derive(ToSchema)]
#[schema(pattern = "^[a-z_]+(=[0-9]{1,9})?$", max_length = 40)]
pub struct MountOption(String);

/// `http://` or `https://`, a host, and a path; 2048 characters at most.
#[derive(ToSchema)]
#[schema(pattern = "^https?://[^@#\u{0}-\u{20}]+$", max_length = 2048)]
pub struct CallbackUrl(String);

/// Printable ASCII without spaces.
#[derive(ToSchema)]
#[schema(pattern = "^[!-~]*$", min_length = 16, max_length = 256)]
pub struct Secret(String);
