//! Turns what an image is made of into bytes in a cloud.
//!
//! Knows no Kubernetes and decides no policy: when something is built, tried again or given up is decided in `plan`.

pub mod setup;
pub mod shell;

#[cfg(test)]
mod sshd;
