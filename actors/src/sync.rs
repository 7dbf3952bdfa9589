//! The one lock of this crate, so that the model checker can put its own in its place.
//!
//! Built with `--cfg shuttle` the lock is shuttle's and every acquisition is a point at which the checker may let another thread run.

#[cfg(not(shuttle))]
pub(crate) use parking_lot::{Mutex, MutexGuard};

#[cfg(shuttle)]
pub(crate) use checked::{Mutex, MutexGuard};

#[cfg(shuttle)]
mod checked {
    pub(crate) use shuttle::sync::MutexGuard;

    /// `parking_lot`'s interface over shuttle's lock.
    pub(crate) struct Mutex<T>(shuttle::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(shuttle::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            match self.0.lock() {
                Ok(guard) => guard,
                Err(poisoned) => poisoned.into_inner(),
            }
        }
    }
}
