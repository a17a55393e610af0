//! Freeze requests from another thread.
//!
//! The flag that instrumented code polls is a word in a shared memory. Rust may write such a
//! memory only by unsafe code; a WebAssembly module may simply store to it. So the word is set by
//! a module of one instruction, which any thread can run.

use super::{Error, engine_error};
use freeze::interface;
use wasm_encoder::{
    CodeSection, EntityType, ExportKind, ExportSection, Function, FunctionSection, ImportSection,
    MemArg, MemArgTarget, MemoryType, Module, TypeSection, ValType,
};
use wasmtime::{Engine, Instance, SharedMemory, Store, TypedFunc};

/// Sets and clears the freeze request of one flag memory.
pub(crate) struct Requester {
    store: Store<()>,
    set: TypedFunc<i32, ()>,
}

impl Requester {
    /// A requester for this memory.
    pub fn new(engine: &Engine, flag: &SharedMemory) -> Result<Requester, Error> {
        let doing = || engine_error("the module that sets the freeze request");
        let module = wasmtime::Module::new(engine, setter()).map_err(doing())?;
        let mut store = Store::new(engine, ());
        let instance =
            Instance::new(&mut store, &module, &[flag.clone().into()]).map_err(doing())?;
        let set = instance
            .get_typed_func(&mut store, "set")
            .map_err(doing())?;
        Ok(Requester { store, set })
    }

    /// Asks for a freeze, or takes that back.
    pub fn set(&mut self, wanted: bool) -> Result<(), Error> {
        self.set
            .call(&mut self.store, i32::from(wanted))
            .map_err(engine_error("setting the freeze request"))
    }
}

fn setter() -> Vec<u8> {
    let mut types = TypeSection::new();
    types.ty().function([ValType::I32], []);
    let mut imports = ImportSection::new();
    let memory = MemoryType {
        minimum: 1,
        maximum: Some(1),
        memory64: false,
        shared: true,
        page_size_log2: None,
    };
    imports.import(
        interface::MODULE,
        interface::FLAG_MEMORY,
        EntityType::Memory(memory),
    );
    let mut functions = FunctionSection::new();
    functions.function(0);
    let mut exports = ExportSection::new();
    exports.export("set", ExportKind::Func, 0);
    let mut set = Function::new([]);
    let word = MemArg {
        offset: u64::from(interface::FLAG_REQUEST),
        align: 2,
        target: MemArgTarget::Memory(0),
        ordering: None,
    };
    set.instructions()
        .i32_const(0)
        .local_get(0)
        .i32_atomic_store(word)
        .end();
    let mut code = CodeSection::new();
    code.function(&set);
    let mut module = Module::new();
    module
        .section(&types)
        .section(&imports)
        .section(&functions)
        .section(&exports)
        .section(&code);
    module.finish()
}
