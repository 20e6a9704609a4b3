//! Describing types to a client, as `query-qmp-schema` does.

use serde_json::{Value, json};
use std::collections::BTreeMap;

/// A type that a client can be told about.
pub trait Schema {
    /// A member of this type may be left out.
    const OPTIONAL: bool = false;

    /// Notes the type and what it needs; gives its name.
    fn define(registry: &mut Registry) -> String;

    /// The members of a structure that others may be based on; none for other types.
    fn members(registry: &mut Registry) -> Vec<Member> {
        let _ = registry;
        Vec::new()
    }
}

/// No arguments, or no result.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

impl Schema for Nothing {
    fn define(registry: &mut Registry) -> String {
        registry.object("Nothing", |_| Vec::new())
    }
}

/// The member of an object.
pub struct Member {
    /// As clients spell it.
    pub name: String,
    /// Its type.
    pub kind: String,
    /// It may be left out.
    pub optional: bool,
}

/// What a tag adds to an object.
pub struct Variant {
    /// Value of the tag.
    pub case: String,
    /// Type of the members that come with it.
    pub kind: String,
}

/// Types seen so far, by name.
#[derive(Default)]
pub struct Registry {
    types: BTreeMap<String, Value>,
}

/// `read_only` as clients spell it.
pub(super) fn spelled(ident: &str) -> String {
    ident.trim_start_matches("r#").replace('_', "-")
}

impl Registry {
    /// A member of type `T`, spelled with dashes or as `wire` says.
    pub fn member<T: Schema>(&mut self, ident: &str, wire: Option<&str>) -> Member {
        let name = wire.map_or_else(|| spelled(ident), str::to_owned);
        Member { name, kind: T::define(self), optional: T::OPTIONAL }
    }

    /// Notes an object once; `members` may come back to it.
    pub fn object(&mut self, name: &str, members: impl FnOnce(&mut Self) -> Vec<Member>) -> String {
        if !self.types.contains_key(name) {
            self.types.insert(name.into(), Value::Null);
            let members = members(self);
            let members: Vec<Value> = members.iter().map(Member::describe).collect();
            let object = json!({"name": name, "members": members, "meta-type": "object"});
            self.types.insert(name.into(), object);
        }
        name.into()
    }

    /// An object whose member `tag` says what else it has.
    pub fn union(
        &mut self,
        name: &str,
        tag: &str,
        build: impl FnOnce(&mut Self) -> (Vec<Member>, Vec<Variant>),
    ) -> String {
        if !self.types.contains_key(name) {
            self.types.insert(name.into(), Value::Null);
            let (members, variants) = build(self);
            let members: Vec<Value> = members.iter().map(Member::describe).collect();
            let variants: Vec<Value> =
                variants.iter().map(|v| json!({"case": v.case, "type": v.kind})).collect();
            let object = json!({
                "name": name, "members": members, "meta-type": "object", "tag": tag,
                "variants": variants,
            });
            self.types.insert(name.into(), object);
        }
        name.into()
    }

    /// Notes an enumeration.
    pub fn enumeration(&mut self, name: &str, values: &[&str]) -> String {
        let members: Vec<Value> = values.iter().map(|value| json!({"name": value})).collect();
        let entry = json!({
            "name": name, "members": members, "meta-type": "enum", "values": values,
        });
        self.types.insert(name.into(), entry);
        name.into()
    }

    /// Notes a value that is one of several types.
    pub fn alternate(
        &mut self,
        name: &str,
        kinds: impl FnOnce(&mut Self) -> Vec<String>,
    ) -> String {
        if !self.types.contains_key(name) {
            self.types.insert(name.into(), Value::Null);
            let members: Vec<Value> =
                kinds(self).iter().map(|kind| json!({"type": kind})).collect();
            let entry = json!({"name": name, "members": members, "meta-type": "alternate"});
            self.types.insert(name.into(), entry);
        }
        name.into()
    }

    /// Notes a type that needs no description.
    pub fn builtin(&mut self, name: &str, json_type: &str) -> String {
        let entry = json!({"name": name, "json-type": json_type, "meta-type": "builtin"});
        self.types.insert(name.into(), entry);
        name.into()
    }

    /// What is said of a command.
    pub fn command(&mut self, name: &str, args: &str, ret: &str, oob: bool) -> Value {
        let mut entry =
            json!({"name": name, "arg-type": args, "ret-type": ret, "meta-type": "command"});
        if oob {
            entry["allow-oob"] = Value::Bool(true);
        }
        entry
    }

    /// Everything that was noted.
    pub fn into_types(self) -> Vec<Value> {
        self.types.into_values().collect()
    }
}

impl Member {
    fn describe(&self) -> Value {
        if self.optional {
            json!({"name": self.name, "default": null, "type": self.kind})
        } else {
            json!({"name": self.name, "type": self.kind})
        }
    }
}

impl<T: Schema> Schema for Option<T> {
    const OPTIONAL: bool = true;
    fn define(registry: &mut Registry) -> String {
        T::define(registry)
    }
}

impl<T: Schema> Schema for Box<T> {
    fn define(registry: &mut Registry) -> String {
        T::define(registry)
    }
}

impl<T: Schema> Schema for Vec<T> {
    fn define(registry: &mut Registry) -> String {
        let element = T::define(registry);
        let name = format!("[{element}]");
        let entry = json!({"name": name, "element-type": element, "meta-type": "array"});
        registry.types.insert(name.clone(), entry);
        name
    }
}

macro_rules! builtins {
    ($($type:ty: $name:literal $json:literal),* $(,)?) => { $(
        impl Schema for $type {
            fn define(registry: &mut Registry) -> String {
                registry.builtin($name, $json)
            }
        }
    )* };
}

builtins!(
    String: "str" "string", bool: "bool" "boolean", u64: "int" "int", i64: "int" "int",
    u32: "int" "int", i32: "int" "int", u16: "int" "int", f64: "number" "number",
    Value: "any" "value",
);

/// Nothing: a command without arguments, or one that returns nothing.
impl Schema for () {
    fn define(registry: &mut Registry) -> String {
        registry.object("Empty", |_| Vec::new())
    }
}

/// Defines structures and enumerations with reader, writer and schema.
///
/// Members are spelled with dashes; `("name")` after a member gives another spelling. A `struct
/// Name: Base` has the members of `Base` beside its own, and is only read.
#[macro_export]
macro_rules! qapi_types {
    () => {};
    (@wire) => { None };
    (@wire $wire:literal) => { Some($wire) };
    ($(#[$meta:meta])* struct $name:ident {
        $( $(#[$fmeta:meta])* $field:ident $(($wire:literal))? : $type:ty ),* $(,)?
    } $($rest:tt)*) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(rename_all = "kebab-case", deny_unknown_fields)]
        pub(crate) struct $name {
            $( $(#[$fmeta])* $(#[serde(rename = $wire)])? pub(crate) $field: $type ),*
        }
        impl $crate::qapi::Schema for $name {
            fn define(registry: &mut $crate::qapi::Registry) -> String {
                registry.object(stringify!($name), <Self as $crate::qapi::Schema>::members)
            }
            fn members(registry: &mut $crate::qapi::Registry) -> Vec<$crate::qapi::Member> {
                let _ = &registry;
                vec![ $(
                    registry.member::<$type>(
                        stringify!($field),
                        $crate::qapi_types!(@wire $($wire)?),
                    )
                ),* ]
            }
        }
        $crate::qapi_types! { $($rest)* }
    };
    ($(#[$meta:meta])* struct $name:ident: $base:ident {
        $( $field:ident : $type:ty ),* $(,)?
    } $($rest:tt)*) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq)]
        pub(crate) struct $name {
            pub(crate) base: $base,
            $( pub(crate) $field: $type ),*
        }
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                #[derive(serde::Deserialize)]
                #[serde(rename_all = "kebab-case")]
                struct Own { $( $field: $type ),* }
                let own = [$(stringify!($field)),*];
                let (own, base) = $crate::qapi::split(deserializer, &own)?;
                let Own { $( $field ),* } = own;
                Ok(Self { base, $( $field ),* })
            }
        }
        impl $crate::qapi::Schema for $name {
            fn define(registry: &mut $crate::qapi::Registry) -> String {
                registry.object(stringify!($name), <Self as $crate::qapi::Schema>::members)
            }
            fn members(registry: &mut $crate::qapi::Registry) -> Vec<$crate::qapi::Member> {
                let mut members = <$base as $crate::qapi::Schema>::members(registry);
                members.extend([ $( registry.member::<$type>(stringify!($field), None) ),* ]);
                members
            }
        }
        $crate::qapi_types! { $($rest)* }
    };
    ($(#[$meta:meta])* enum $name:ident {
        $( $(#[$vmeta:meta])* $variant:ident = $wire:literal ),* $(,)?
    } $($rest:tt)*) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
        pub(crate) enum $name {
            $( $(#[$vmeta])* #[serde(rename = $wire)] $variant ),*
        }
        impl $crate::qapi::Schema for $name {
            fn define(registry: &mut $crate::qapi::Registry) -> String {
                registry.enumeration(stringify!($name), &[$($wire),*])
            }
        }
        $crate::qapi_types! { $($rest)* }
    };
}
