//! A host call between any two operators, so that a module can be frozen everywhere.

use wasm_encoder::reencode::{Error, Reencode, utils};
use wasm_encoder::{
    CodeSection, EntityType, Function, ImportSection, Instruction, SectionId, TypeSection,
};
use wasmparser::{FunctionBody, Parser, Payload, TypeRef};

struct Ticking {
    imported: u32,
    types: u32,
    /// Operators between two ticks.
    stride: usize,
    has_imports: bool,
}

type Result<T> = std::result::Result<T, Error<std::convert::Infallible>>;

/// The module with a call of `host` `tick`, which the host answers as any other, before every
/// `stride`th operator. Nothing for a module without functions.
pub fn with_ticks(wasm: &[u8], stride: usize) -> Option<Vec<u8>> {
    let mut ticking = Ticking {
        imported: 0,
        types: 0,
        stride,
        has_imports: false,
    };
    let mut functions = 0;
    for payload in Parser::new(0).parse_all(wasm) {
        match payload.ok()? {
            Payload::TypeSection(section) => {
                for group in section {
                    ticking.types += group.ok()?.types().len() as u32;
                }
            }
            Payload::ImportSection(section) => {
                ticking.has_imports = true;
                for import in section.into_imports() {
                    let function = matches!(import.ok()?.ty, TypeRef::Func(_));
                    ticking.imported += u32::from(function);
                }
            }
            Payload::FunctionSection(section) => functions = section.count(),
            _ => {}
        }
    }
    if functions == 0 {
        return None;
    }
    let mut module = wasm_encoder::Module::new();
    let parser = Parser::new(0);
    ticking.parse_core_module(&mut module, parser, wasm).ok()?;
    Some(module.finish())
}

impl Ticking {
    fn import(&self, imports: &mut ImportSection) {
        imports.import("host", "tick", EntityType::Function(self.types));
    }
}

impl Reencode for Ticking {
    type Error = std::convert::Infallible;

    fn function_index(&mut self, function: u32) -> Result<u32> {
        Ok(function + u32::from(function >= self.imported))
    }

    fn parse_type_section(
        &mut self,
        types: &mut TypeSection,
        section: wasmparser::TypeSectionReader<'_>,
    ) -> Result<()> {
        utils::parse_type_section(self, types, section)?;
        types.ty().function([], []);
        Ok(())
    }

    fn parse_import_section(
        &mut self,
        imports: &mut ImportSection,
        section: wasmparser::ImportSectionReader<'_>,
    ) -> Result<()> {
        utils::parse_import_section(self, imports, section)?;
        self.import(imports);
        Ok(())
    }

    fn intersperse_section_hook(
        &mut self,
        module: &mut wasm_encoder::Module,
        _: Option<SectionId>,
        before: Option<SectionId>,
    ) -> Result<()> {
        if before == Some(SectionId::Function) && !self.has_imports {
            let mut imports = ImportSection::new();
            self.import(&mut imports);
            module.section(&imports);
        }
        Ok(())
    }

    fn parse_function_body(
        &mut self,
        code: &mut CodeSection,
        body: FunctionBody<'_>,
    ) -> Result<()> {
        let mut locals = Vec::new();
        for group in body.get_locals_reader()? {
            let (count, kind) = group?;
            locals.push((count, self.val_type(kind)?));
        }
        let mut function = Function::new(locals);
        let mut operators = body.get_operators_reader()?;
        let mut at = 0;
        while !operators.eof() {
            if at % self.stride == 0 {
                function.instruction(&Instruction::Call(self.imported));
            }
            at += 1;
            function.instruction(&self.parse_instruction(&mut operators)?);
        }
        code.function(&function);
        Ok(())
    }
}
