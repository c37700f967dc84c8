//! Completions over a WebSocket, by the convention in docs/protocols.md: the request and the chunks are those of
//! `POST /v1/completions`, each in a text frame.

use super::Wire;
use super::openai_completions;
use crate::framing::Framing;

pub(super) const WIRE: Wire = Wire {
    name: "websocket",
    path: "/v1/stream",
    framing: Framing::WebSocket,
    end_mark: Some("[DONE] or a close with code 1000"),
    ..openai_completions::WIRE
};
