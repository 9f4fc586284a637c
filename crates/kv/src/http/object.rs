//! JSON objects and nothing else.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// A body that is an object. Left to themselves, our types can be read from a list of their
/// members without names too, in which somebody may mean other ones.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = Object<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<Object<T>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(members)).map(Object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::CompactBody;

    #[test]
    fn a_list_of_members_is_no_object() {
        let read = |text| serde_json::from_str::<Object<CompactBody>>(text);
        assert_eq!(read("{\"revision\": 7}").unwrap().0, CompactBody { revision: 7 });
        // What serde makes of it by itself.
        assert!(serde_json::from_str::<CompactBody>("[7]").is_ok());
        for wrong in ["[7]", "7", "null", "{}", "{\"revision\": 7, \"x\": 1}"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
