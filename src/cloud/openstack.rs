//! OpenStack behind the port.
