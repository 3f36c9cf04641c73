//! The outside of a GraphQL answer: its errors, and where its data lie.

use std::ops::Range;

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use super::{GraphqlError, UpstreamError, memory::Reservation};
use crate::domain::{
    DatabaseTime,
    json::{Json, without_mark},
};

/// A GraphQL answer, its errors not yet weighed and its data not yet read.
#[derive(Debug)]
pub(super) struct Answer {
    /// Start of the request.
    pub(super) started_at: DatabaseTime,
    /// `errors`.
    pub(super) errors: Vec<GraphqlError>,
    /// `extensions["vbnxt-trace-id"]`: what Visma's support asks for.
    pub(super) trace_id: Option<String>,
    /// Held as long as the text.
    _memory: Option<Reservation>,
    text: String,
    data: Option<Range<usize>>,
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
    #[serde(borrow, default)]
    errors: Option<Vec<&'a RawValue>>,
    #[serde(borrow, default)]
    extensions: Option<&'a RawValue>,
}

impl Answer {
    /// Reads the outside of an answer's bytes, which this memory was reserved for.
    pub(super) fn parse(
        bytes: Vec<u8>,
        memory: Option<Reservation>,
        started_at: DatabaseTime,
    ) -> Result<Self, UpstreamError> {
        let text = text(bytes)?;
        if !text.trim_start().starts_with('{') {
            return Err(unless_json(&text));
        }
        let Envelope { data, errors, extensions } = serde_json::from_str(&text).map_err(|error| {
            if error.is_data() { UpstreamError::Shape(error.to_string()) } else { not_json(&error) }
        })?;
        let errors: Vec<GraphqlError> =
            errors.into_iter().flatten().map(|entry| GraphqlError::read(Json::of(entry))).collect();
        if data.is_none() && errors.is_empty() {
            return Err(UpstreamError::Shape("neither data nor errors".into()));
        }
        if data.is_some_and(|data| !data.get().starts_with('{')) {
            return Err(UpstreamError::Shape("data is not an object".into()));
        }
        let trace_id = extensions.and_then(trace_id);
        let data = data.map(|data| place_of(data.get(), &text));
        Ok(Self { started_at, errors, trace_id, _memory: memory, data, text })
    }

    /// The text of `data`; an empty object when it is null or absent.
    pub(super) fn data(&self) -> &str {
        self.data.clone().map_or("{}", |range| &self.text[range])
    }

    /// The data of a fixed operation. Any error fails it: half of a description is none.
    pub(super) fn into_data<T: DeserializeOwned>(self) -> Result<T, UpstreamError> {
        if !self.errors.is_empty() {
            return Err(UpstreamError::Graphql(self.errors));
        }
        serde_json::from_str(self.data()).map_err(|error| UpstreamError::Shape(error.to_string()))
    }
}

/// The text of an answer.
fn text(mut bytes: Vec<u8>) -> Result<String, UpstreamError> {
    let mark = bytes.len() - without_mark(&bytes).len();
    bytes.drain(..mark);
    String::from_utf8(bytes).map_err(|error| not_json(&error.utf8_error()))
}

/// Where a part of a text stands in it.
fn place_of(part: &str, text: &str) -> Range<usize> {
    let start = part.as_ptr() as usize - text.as_ptr() as usize;
    start..start + part.len()
}

fn trace_id(extensions: &RawValue) -> Option<String> {
    let trace_id = Json::of(extensions).members()?.get("vbnxt-trace-id")?.text()?;
    Some(trace_id.chars().take(100).collect())
}

/// Why a text that is no object is not an answer.
fn unless_json(text: &str) -> UpstreamError {
    match serde_json::from_str::<serde::de::IgnoredAny>(text) {
        Ok(_) => UpstreamError::Shape("not a JSON object".into()),
        Err(error) => not_json(&error),
    }
}

fn not_json(error: &dyn std::error::Error) -> UpstreamError {
    UpstreamError::NotJson(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Answer, UpstreamError> {
        Answer::parse(text.as_bytes().to_vec(), None, DatabaseTime::default())
    }

    #[test]
    fn data_and_errors_may_stand_beside_each_other() {
        let answer = parse(
            r#" {"errors":[{"message":"m","path":["c0",0],"locations":[{"line":3,"column":1}]}],
            "data":{"c0": null}, "extensions":{"vbnxt-trace-id":"abc"}}"#,
        );
        let answer = answer.unwrap();
        assert_eq!(answer.data(), r#"{"c0": null}"#);
        assert_eq!(
            (answer.errors[0].path.as_slice(), answer.errors[0].lines.as_slice()),
            (&["c0".into()][..], &[3][..])
        );
        assert_eq!(answer.trace_id.as_deref(), Some("abc"));
    }

    #[test]
    fn a_byte_order_mark_says_nothing() {
        assert_eq!(parse("\u{feff}{\"data\":{\"a\":1}}").unwrap().data(), r#"{"a":1}"#);
    }

    #[test]
    fn what_is_no_answer_is_refused_by_its_kind() {
        for text in ["", "<html>", "{\"data\":{", "{\"data\":{}} x", "\u{feff}"] {
            assert!(matches!(parse(text), Err(UpstreamError::NotJson(_))), "{text}");
        }
        for text in ["[]", "1", "{}", r#"{"data":null}"#, r#"{"data":[]}"#, r#"{"data":{},"errors":{}}"#] {
            assert!(matches!(parse(text), Err(UpstreamError::Shape(_))), "{text}");
        }
        assert!(matches!(
            Answer::parse(vec![b'{', 0xff], None, DatabaseTime::default()),
            Err(UpstreamError::NotJson(_))
        ));
        assert!(parse(r#"{"errors":[{}]}"#).is_ok_and(|answer| answer.data() == "{}"));
    }

    #[test]
    fn errors_of_any_shape_are_errors() {
        let marker = r#"{"$serde_json::private::Number":"x"}"#;
        for entry in [
            "5",
            "null",
            "[]",
            r#"{"message":" "}"#,
            marker,
            &format!(r#"{{"message":{marker},"extensions":{marker}}}"#),
        ] {
            let answer = parse(&format!(r#"{{"errors":[{entry}],"extensions":{marker}}}"#)).unwrap();
            assert_eq!(answer.errors[0].message, "an error without a message", "{entry}");
        }
        let answer = parse(r#"{"errors":[{"message":"half a \ud800","extensions":{"code":"A","codes":["B",7]}}]}"#);
        let error = &answer.unwrap().errors[0];
        assert_eq!((error.message.as_str(), error.codes.clone()), ("half a \u{fffd}", vec!["B".into(), "A".into()]));
    }
}
