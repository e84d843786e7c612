//! What is known of the values that a template sees.

use std::{collections::BTreeMap, rc::Rc};

use crate::routing::{Route, VariableType};

/// What every template sees beside its route's variables.
const GLOBALS: [(&str, Type); 9] = [
    ("locale", Type::Text),
    ("dir", Type::Text),
    ("start_side", Type::Text),
    ("subject", Type::Text),
    ("current_year", Type::Integer),
    ("current_date", Type::Time),
    ("full_name", Type::Text),
    ("username", Type::Text),
    ("email", Type::Text),
];

/// The fields of `brand`.
pub(in crate::template) const BRAND: [&str; 8] = [
    "name",
    "logo_url",
    "website_url",
    "support_email",
    "support_url",
    "colour",
    "text_on_colour",
    "footer",
];

/// What a value is known to be.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Type {
    /// A text, a number or a boolean; an address.
    Text,
    Flag,
    Integer,
    Amount,
    Time,
    Duration,
    /// Nothing is known.
    Any,
    List(Rc<Type>),
    /// Names that are not known.
    Map,
    Record(Rc<BTreeMap<String, Type>>),
}

impl From<&VariableType> for Type {
    fn from(kind: &VariableType) -> Self {
        match kind {
            VariableType::Text | VariableType::Url | VariableType::Currency => Self::Text,
            VariableType::Integer => Self::Integer,
            VariableType::Amount => Self::Amount,
            VariableType::Time => Self::Time,
            VariableType::Duration => Self::Duration,
            VariableType::List => Self::List(Rc::new(Self::Text)),
            VariableType::Object => Self::Map,
            VariableType::ListOf(kind) => Self::List(Rc::new((&**kind).into())),
            VariableType::AtMost(_, kind) => (&**kind).into(),
            VariableType::Record(fields) => {
                let fields =
                    fields.iter().map(|(name, field)| (name.clone(), (&field.kind).into()));
                Self::Record(Rc::new(fields.collect()))
            }
        }
    }
}

impl Type {
    pub(super) fn describe(&self) -> &'static str {
        match self {
            Self::Text => "a text",
            Self::Flag => "true or false",
            Self::Integer => "a whole number",
            Self::Amount => "an amount",
            Self::Time => "a time",
            Self::Duration => "a duration",
            Self::Any => "a value",
            Self::List(_) => "a list",
            Self::Map | Self::Record(_) => "an object",
        }
    }

    pub(super) fn is_plain(&self) -> bool {
        !matches!(self, Self::List(_) | Self::Map | Self::Record(_))
    }

    pub(super) fn may_be_number(&self) -> bool {
        matches!(self, Self::Text | Self::Integer | Self::Amount | Self::Duration | Self::Any)
    }

    /// The helper that prints it.
    pub(super) fn printer(&self) -> Option<&'static str> {
        Some(match self {
            Self::Amount => "money",
            Self::Time => "when",
            Self::Duration => "duration",
            Self::List(_) => "list",
            _ => return None,
        })
    }
}

pub(super) fn root(route: Option<&Route>) -> Type {
    let Some(route) = route else { return Type::Any };
    let variables = route.variables.iter();
    let mut fields: BTreeMap<String, Type> =
        variables.map(|(name, variable)| (name.clone(), (&variable.kind).into())).collect();
    for (name, kind) in GLOBALS {
        fields.entry(name.to_owned()).or_insert(kind);
    }
    let brand = BRAND.into_iter().map(|name| (name.to_owned(), Type::Text)).collect();
    fields.insert("brand".to_owned(), Type::Record(Rc::new(brand)));
    Type::Record(Rc::new(fields))
}

pub(super) fn names(fields: &BTreeMap<String, Type>) -> String {
    let names: Vec<&str> = fields.keys().map(String::as_str).collect();
    format!("there are {}", names.join(", "))
}
