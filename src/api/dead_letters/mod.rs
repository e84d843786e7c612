//! The dead-letter queues: what waits for an operator, and what operators decide about it.

mod decide;
mod list;

use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;

use super::ApiState;
use crate::broker::amqp::DeadLetterQueue;

pub(super) fn for_support() -> OpenApiRouter<ApiState> {
    list::routes()
}

pub(super) fn for_operators() -> OpenApiRouter<ApiState> {
    decide::routes()
}

/// A dead-letter queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Queue {
    /// Failed for good.
    Dead,
    /// Could not be read, or ends its process.
    Poison,
    /// May have been sent.
    Parked,
}

impl From<Queue> for DeadLetterQueue {
    fn from(queue: Queue) -> Self {
        match queue {
            Queue::Dead => Self::Dead,
            Queue::Poison => Self::Poison,
            Queue::Parked => Self::Parked,
        }
    }
}
