//! The cloud room.
