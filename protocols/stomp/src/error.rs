//! Errors of a client, each with the text of its ERROR frame.
//!
//! The texts are RabbitMQ's, letter for letter: clients and test suites compare them.

use gatepost_core::fault::{Fault, FaultKind};
use std::borrow::Cow;

/// An ERROR frame to send.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}: {}", body.trim_end())]
pub(crate) struct Refusal {
    /// The `message` header.
    pub(crate) message: &'static str,
    /// The body.
    pub(crate) body: Cow<'static, str>,
    /// Closes the connection even if `keep_open_on_error` is set.
    pub(crate) fatal: bool,
}

impl Refusal {
    fn new(message: &'static str, body: impl Into<Cow<'static, str>>) -> Refusal {
        Refusal {
            message,
            body: body.into(),
            fatal: false,
        }
    }

    fn fatal(message: &'static str, body: impl Into<Cow<'static, str>>) -> Refusal {
        Refusal {
            message,
            body: body.into(),
            fatal: true,
        }
    }

    pub(crate) fn malformed(what: impl Into<Cow<'static, str>>) -> Refusal {
        Refusal::fatal("Malformed frame", what)
    }

    pub(crate) fn version_mismatch() -> Refusal {
        Refusal::fatal("Version mismatch", "Supported versions are 1.0,1.1,1.2\n")
    }

    pub(crate) fn already_connected() -> Refusal {
        Refusal::fatal("Already connected", "CONNECT is allowed once\n")
    }

    pub(crate) fn illegal_command() -> Refusal {
        Refusal::fatal("Illegal command", "You must log in using CONNECT first")
    }

    pub(crate) fn login_refused(user: &str) -> Refusal {
        Refusal::fatal("Bad CONNECT", format!("Access refused for user '{user}'"))
    }

    pub(crate) fn too_many_connections() -> Refusal {
        Refusal::fatal("Bad CONNECT", "Too many connections: try again later")
    }

    pub(crate) fn login_busy() -> Refusal {
        Refusal::fatal("Bad CONNECT", "Too many logins at once: try again")
    }

    pub(crate) fn loopback_only() -> Refusal {
        Refusal::fatal("Bad CONNECT", "non-loopback access denied")
    }

    /// The vhost `vhost` does not exist or is not open to this user, or has no room for another connection.
    pub(crate) fn vhost_refused(vhost: &str, fault: &Fault) -> Refusal {
        let body = match fault.kind {
            FaultKind::NotFound | FaultKind::AccessRefused => format!("Virtual host '{vhost}' access denied"),
            _ => format!("Connection refused: {}", fault.text),
        };
        Refusal::fatal("Bad CONNECT", body)
    }

    pub(crate) fn bad_command(command: &str) -> Refusal {
        Refusal::new("Bad command", format!("Could not interpret command \"{command}\"\n"))
    }

    pub(crate) fn missing_destination(command: &str) -> Refusal {
        Refusal::new(
            "Missing destination",
            format!("\"{command}\" must include a 'destination' header\n"),
        )
    }

    pub(crate) fn unknown_destination(destination: &str) -> Refusal {
        Refusal::new(
            "Unknown destination",
            format!(
                "'{destination}' is not a valid destination.\nValid destination types are: /temp-queue, /exchange, \
                 /topic, /queue, /amq/queue, /reply-queue/.\n"
            ),
        )
    }

    /// `rest` is the text after the prefix that stands for the `kind`.
    pub(crate) fn invalid_destination(rest: &str, kind: &str) -> Refusal {
        Refusal::new(
            "Invalid destination",
            format!("'{rest}' is not a valid {kind} destination\n"),
        )
    }

    pub(crate) fn destination_not_for(destination: &str, command: &str) -> Refusal {
        Refusal::new(
            "Invalid destination",
            format!("'{destination}' is not a valid destination for '{command}'\n"),
        )
    }

    pub(crate) fn blank_destination() -> Refusal {
        Refusal::new("Invalid destination", "Destination cannot be blank")
    }

    pub(crate) fn missing_header(command: &str, name: &str) -> Refusal {
        Refusal::new(
            "Missing header",
            format!("\"{command}\" must include the \"{name}\" header\n"),
        )
    }

    pub(crate) fn invalid_header(command: &str, name: &str) -> Refusal {
        Refusal::new(
            "Invalid header",
            format!("\"{command}\" must include a valid \"{name}\" header\n"),
        )
    }

    pub(crate) fn header_not_allowed(command: &str, name: &str) -> Refusal {
        Refusal::new("Invalid header", format!("'{name}' is not allowed on '{command}'.\n"))
    }

    pub(crate) fn unsupported_header(name: &str) -> Refusal {
        Refusal::new("Unsupported header", format!("'{name}' is not supported\n"))
    }

    pub(crate) fn durable_needs_id() -> Refusal {
        Refusal::new("Missing Header", "Header 'id' is required for durable subscriptions")
    }

    pub(crate) fn unsubscribe_needs_id() -> Refusal {
        Refusal::new(
            "Missing destination or id",
            "UNSUBSCRIBE must include a 'destination' or 'id' header",
        )
    }

    pub(crate) fn unsubscribe_temp_queue() -> Refusal {
        Refusal::new("Invalid id", "UNSUBSCRIBE 'id' may not start with /temp-queue/\n")
    }

    /// `description` is `id='77'` or `destination='/queue/x'`.
    pub(crate) fn no_subscription(description: &str) -> Refusal {
        Refusal::new(
            "No subscription found",
            format!(
                "UNSUBSCRIBE must refer to an existing subscription.\nSubscription to \"{description}\" not found.\n"
            ),
        )
    }

    pub(crate) fn duplicate_subscription(tag: &str) -> Refusal {
        Refusal::fatal(
            "Duplicated subscription identifier",
            format!("A subscription identified by '{tag}' already exists."),
        )
    }

    pub(crate) fn too_many_subscriptions(limit: usize) -> Refusal {
        Refusal::new(
            "Subscription limit exceeded",
            format!("Too many subscriptions (limit {limit})"),
        )
    }

    pub(crate) fn missing_transaction(command: &str) -> Refusal {
        Refusal::new(
            "Missing transaction",
            format!("\"{command}\" must include a 'transaction' header\n"),
        )
    }

    pub(crate) fn bad_transaction(name: &str) -> Refusal {
        Refusal::new(
            "Bad transaction",
            format!("Invalid transaction identifier: \"{name}\"\n"),
        )
    }

    pub(crate) fn transaction_open(name: &str) -> Refusal {
        Refusal::new("Bad transaction", format!("Transaction already begun: \"{name}\"\n"))
    }

    pub(crate) fn too_many_transactions(limit: usize) -> Refusal {
        Refusal::new(
            "Transaction limit exceeded",
            format!("Too many concurrent transactions (limit {limit})"),
        )
    }

    pub(crate) fn transaction_too_long(limit: usize) -> Refusal {
        Refusal::new(
            "Transaction too large",
            format!("Too many actions in transaction (limit {limit})"),
        )
    }

    pub(crate) fn transactions_too_large(limit: usize) -> Refusal {
        Refusal::new(
            "Transaction too large",
            format!("Too many bytes in transactions (limit {limit})"),
        )
    }

    pub(crate) fn no_memory_for_transactions() -> Refusal {
        Refusal::new(
            "Transaction too large",
            "no memory left for transactions (memory.input)",
        )
    }

    pub(crate) fn message_not_found(number: u64) -> Refusal {
        Refusal::new("Message not found", format!("unknown delivery tag {number}\n"))
    }

    /// The engine does not know the delivery.
    pub(crate) fn settle_failed(fault: &Fault) -> Refusal {
        Refusal::new("Message not found", format!("{fault}\n"))
    }

    pub(crate) fn precondition_failed(text: impl std::fmt::Display) -> Refusal {
        Refusal::fatal("precondition_failed", format!("{text}\n"))
    }

    /// The engine refused a command.
    pub(crate) fn fault(fault: &Fault) -> Refusal {
        Refusal::fatal(fault_word(fault.kind), format!("{fault}\n"))
    }

    /// The engine refused a message.
    pub(crate) fn publish_refused(why: FaultKind) -> Refusal {
        Refusal::new(fault_word(why), "The message was refused\n")
    }

    /// `description` is `id='5'` or `destination='/queue/x'`.
    pub(crate) fn subscription_cancelled(description: &str) -> Refusal {
        Refusal::new(
            "Server cancelled subscription",
            format!(
                "The server has canceled a subscription.\nNo more messages will be delivered for \"{description}\".\n"
            ),
        )
    }

    pub(crate) fn connection_closed(why: impl Into<Cow<'static, str>>) -> Refusal {
        Refusal::fatal("Connection closed", why)
    }
}

/// The `message` header for an error of the engine: AMQP's names of conditions, as in RabbitMQ.
fn fault_word(kind: FaultKind) -> &'static str {
    match kind {
        FaultKind::NotFound => "not_found",
        FaultKind::AccessRefused => "access_refused",
        FaultKind::ResourceLocked => "resource_locked",
        FaultKind::PreconditionFailed => "precondition_failed",
        FaultKind::NotAllowed => "not_allowed",
        FaultKind::NotImplemented => "not_implemented",
        FaultKind::QuotaExceeded | FaultKind::ResourceError => "resource_error",
        FaultKind::Internal => "internal_error",
    }
}
