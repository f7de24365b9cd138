//! When something that is to be kept up is tried again, at the earliest; twice as long at most, so that many do not come
//! at once.

use std::time::Duration;

/// After an attempt that nobody answered, and after what the peer took away as soon as it was there.
pub(super) const RETRY_UNREACHABLE: Duration = Duration::from_secs(5);

/// After the peer, or we, refused: somebody must change something first.
pub(super) const RETRY_REFUSED: Duration = Duration::from_secs(30);
