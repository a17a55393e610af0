//! A WebAssembly pass that makes a module freezable.
