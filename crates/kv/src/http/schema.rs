//! What the API's description says where a body's type alone would say something else.

#![expect(dead_code, reason = "these types are described, and never made")]

use utoipa::ToSchema;

/// A value, if there is one, in one of two forms.
#[derive(ToSchema)]
pub(super) struct MaybeValue {
    /// The value, where it is UTF-8.
    value: Option<String>,
    /// The value in base64, where it is not.
    value_base64: Option<String>,
}

/// A record, if there is one.
#[derive(ToSchema)]
pub(super) struct MaybeRecord {
    /// The value, where it is UTF-8.
    value: Option<String>,
    /// The value in base64, where it is not.
    value_base64: Option<String>,
    /// The revision that created the key.
    create_revision: Option<u64>,
    /// The revision of the last change.
    mod_revision: Option<u64>,
    /// Changes since the creation, which is 1.
    version: Option<u64>,
    /// The lease that the key lives under, if it does.
    lease: Option<u64>,
}

/// A text where values are compared, else a number.
#[derive(ToSchema)]
#[serde(untagged)]
pub(super) enum Operand {
    /// Of a version, a revision or a lease.
    Number(u64),
    /// Of a value.
    Text(String),
}
