//! The contract's types and calls, as wasmtime generates them.

#![allow(missing_docs, unsafe_code, unreachable_pub, clippy::all)]

wasmtime::component::bindgen!({
    world: "connector-full",
    path: "../../wit",
    imports: { default: async | trappable },
    exports: { default: async },
    with: {
        "raic:connector/payloads.payload": raic_cloud::Payload,
        "raic:connector/payloads.body": crate::call::GuestBody,
        "raic:connector/secrets.secret": crate::call::SecretHandle,
        "raic:connector/http.response": crate::call::GuestResponse,
        "raic:connector/cloud.ticket": crate::logins::LoginTicket,
    },
});
