//! Tests with a real QEMU and, where it matters, the real guest. Both have to be there: `make setup`.

mod endings;
mod real_guest;
mod support;
