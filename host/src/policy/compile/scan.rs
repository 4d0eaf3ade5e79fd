//! Scan of a component's bytes before compilation: its imports and exports, and its size in every respect
//! that costs the compiler or an instance something.
//!
//! The scan makes one pass and does not recurse. Its allocations are for items that were read, never for a
//! count that a header announces. The parsers behind it recurse for nested types, so the scan limits the
//! depth of types first.

use wasmparser::{
    BinaryReader, BinaryReaderError, ComponentAlias, ComponentExport, ComponentExternalKind, ComponentImport,
    ComponentInstance, ComponentOuterAliasKind, ComponentType, Encoding, FromReader, Instance,
    InstanceTypeDeclaration, Parser, Payload, SectionLimited, TableSectionReader,
};

use crate::limits::{self, Limit};
use crate::text;

/// Reason why a component is rejected before compilation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScanError {
    /// Count over its limit.
    #[error("{}", bound.says(found, bound.default))]
    OverBound {
        /// Limit that was exceeded.
        bound: Limit,
        /// Count at which the scan stopped; the full count may be higher.
        found: u64,
    },
    /// Core module or component that is known only at instantiation, so its size cannot be determined.
    #[error(
        "it is given a core module or a component by another, which policies may not be: link them when it \
            is built"
    )]
    Indirect,
    /// Truncated bytes.
    #[error("the file is no valid component: it ends early, so it is incomplete; copy or build it again")]
    Incomplete,
    /// Damaged bytes, which may be truncated too.
    #[error("the file is no valid component, or not all of it: {0}")]
    Invalid(String),
}

impl From<BinaryReaderError> for ScanError {
    fn from(error: BinaryReaderError) -> Self {
        ScanError::Invalid(text::truncate(&text::escape(&error.to_string()), 512))
    }
}

/// Names of a component's imports and exports, in the component's order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::policy) struct Names<'a> {
    /// Names of the imports.
    pub(in crate::policy) imports: Vec<&'a str>,
    /// Names of the exports.
    pub(in crate::policy) exports: Vec<&'a str>,
}

/// Reads the names of a component's imports and exports, and checks the component against the limits.
///
/// # Errors
/// Returns [`ScanError`] if the component would not compile, or not within limits.
pub(in crate::policy) fn scan(component: &[u8]) -> Result<Names<'_>, ScanError> {
    let mut scan = Scan::default();
    for payload in Parser::new(0).parse_all(component) {
        scan.payload(component, payload.map_err(of_sections)?)?;
    }
    Ok(scan.world)
}

/// Returns the error of a component whose sections do not follow each other. A section that is longer than
/// the rest of the file has a message of its own; wasmparser's errors have no kinds.
fn of_sections(error: BinaryReaderError) -> ScanError {
    match error.message() {
        "unexpected end-of-file" => ScanError::Incomplete,
        _ => error.into(),
    }
}

/// Cost of one instantiation.
#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    instances: u64,
    memories: u64,
    tables: u64,
    /// Initial elements of the tables.
    elements: u64,
}

impl Cost {
    fn add(&mut self, other: Cost) -> Result<(), ScanError> {
        self.instances = self.instances.saturating_add(other.instances);
        self.memories = self.memories.saturating_add(other.memories);
        self.tables = self.tables.saturating_add(other.tables);
        self.elements = self.elements.saturating_add(other.elements);
        within(limits::CORE_INSTANCES, self.instances)?;
        within(limits::MEMORIES, self.memories)?;
        within(limits::TABLES, self.tables)?;
        within(limits::TABLE_ELEMENTS, self.elements)
    }
}

/// Module or component whose end has not been read yet.
#[derive(Debug, Default)]
struct Open {
    component: bool,
    /// Cost of the module, or of everything that the component has instantiated.
    cost: Cost,
    /// Index space of core modules, in a component.
    modules: Vec<Cost>,
    /// Index space of components, in a component.
    components: Vec<Cost>,
}

#[derive(Debug, Default)]
struct Scan<'a> {
    /// Open modules and components, outermost first.
    open: Vec<Open>,
    world: Names<'a>,
    functions: u64,
    modules: u64,
    components: u64,
}

impl<'a> Scan<'a> {
    fn payload(&mut self, bytes: &'a [u8], payload: Payload<'a>) -> Result<(), ScanError> {
        match payload {
            Payload::Version { encoding, .. } => {
                // Enclosing components are counted only at their end, so the open ones are added here.
                within(limits::COMPONENTS, self.components.saturating_add(self.open.len() as u64))?;
                self.open.push(Open {
                    component: encoding == Encoding::Component,
                    // A module costs one instance each time. A component costs the sum of its instantiations.
                    cost: Cost { instances: u64::from(encoding == Encoding::Module), ..Cost::default() },
                    ..Open::default()
                });
            }
            Payload::End(_) => self.close()?,
            // Sections of a core module. A module without the functions that it announces is not valid.
            Payload::FunctionSection(section) => {
                self.functions = self.functions.saturating_add(u64::from(section.count()));
                within(limits::FUNCTIONS, self.functions)?;
            }
            Payload::CodeSectionEntry(body) => within(limits::FUNCTION, body.range().len() as u64)?,
            Payload::MemorySection(section) => {
                self.made(Cost { memories: section.count().into(), ..Cost::default() })?;
            }
            Payload::TableSection(section) => self.tables(section)?,
            // Sections of a component.
            Payload::ComponentTypeSection(section) => type_depth(bytes, &section)?,
            Payload::ComponentImportSection(section) => {
                for import in section {
                    self.import(import?)?;
                }
            }
            Payload::ComponentExportSection(section) => {
                for export in section {
                    self.export(export?)?;
                }
            }
            Payload::ComponentAliasSection(section) => {
                for alias in section {
                    self.alias(alias?)?;
                }
            }
            Payload::InstanceSection(section) => {
                for instance in section {
                    if let Instance::Instantiate { module_index, .. } = instance? {
                        self.made(self.item(Sort::Module, 0, module_index))?;
                    }
                }
            }
            Payload::ComponentInstanceSection(section) => {
                for instance in section {
                    if let ComponentInstance::Instantiate { component_index, .. } = instance? {
                        self.made(self.item(Sort::Component, 0, component_index))?;
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn tables(&mut self, section: TableSectionReader<'_>) -> Result<(), ScanError> {
        self.made(Cost { tables: section.count().into(), ..Cost::default() })?;
        for table in section {
            self.made(Cost { elements: table?.ty.initial, ..Cost::default() })?;
        }
        Ok(())
    }

    fn import(&mut self, import: ComponentImport<'a>) -> Result<(), ScanError> {
        self.named(|world| world.imports.push(import.name.name))?;
        direct(import.ty.kind())
    }

    /// Records an export, which adds one more item to its index space.
    fn export(&mut self, export: ComponentExport<'a>) -> Result<(), ScanError> {
        self.named(|world| world.exports.push(export.name.name))?;
        match export.kind {
            ComponentExternalKind::Module => self.again(Sort::Module, 0, export.index),
            ComponentExternalKind::Component => self.again(Sort::Component, 0, export.index),
            _ => Ok(()),
        }
    }

    fn alias(&mut self, alias: ComponentAlias<'_>) -> Result<(), ScanError> {
        match alias {
            ComponentAlias::InstanceExport { kind, .. } => direct(kind),
            ComponentAlias::Outer { kind: ComponentOuterAliasKind::CoreModule, count, index } => {
                self.again(Sort::Module, count, index)
            }
            ComponentAlias::Outer { kind: ComponentOuterAliasKind::Component, count, index } => {
                self.again(Sort::Component, count, index)
            }
            _ => Ok(()),
        }
    }

    /// Closes the innermost module or component, and adds it as an item to the enclosing component.
    fn close(&mut self) -> Result<(), ScanError> {
        let Some(Open { component, cost, .. }) = self.open.pop() else { return Ok(()) };
        if self.open.is_empty() {
            return Ok(());
        }
        self.push(if component { Sort::Component } else { Sort::Module }, cost)
    }

    /// Adds another item to an index space, for a module or component that was seen before.
    fn again(&mut self, sort: Sort, outwards: u32, index: u32) -> Result<(), ScanError> {
        self.push(sort, self.item(sort, outwards, index))
    }

    fn push(&mut self, sort: Sort, cost: Cost) -> Result<(), ScanError> {
        let Some(open) = self.open.last_mut() else { return Ok(()) };
        match sort {
            Sort::Module => {
                self.modules += 1;
                within(limits::CORE_MODULES, self.modules)?;
                open.modules.push(cost);
            }
            Sort::Component => {
                self.components += 1;
                within(limits::COMPONENTS, self.components)?;
                open.components.push(cost);
            }
        }
        Ok(())
    }

    /// Returns the cost of an item. Returns zero if there is no such item, in which case the component is not
    /// valid.
    fn item(&self, sort: Sort, outwards: u32, index: u32) -> Cost {
        let at = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
        let open = self.open.iter().rev().nth(at(outwards));
        let items = open.map(|open| match sort {
            Sort::Module => &open.modules,
            Sort::Component => &open.components,
        });
        items.and_then(|items| items.get(at(index))).copied().unwrap_or_default()
    }

    fn made(&mut self, cost: Cost) -> Result<(), ScanError> {
        self.open.last_mut().map_or(Ok(()), |open| open.cost.add(cost))
    }

    /// Records a name if it belongs to the outermost component, and checks the limit on names.
    fn named(&mut self, add: impl FnOnce(&mut Names<'a>)) -> Result<(), ScanError> {
        if self.open.len() == 1 {
            add(&mut self.world);
        }
        let Names { imports, exports } = &self.world;
        within(limits::EXTERNS, (imports.len() + exports.len()) as u64)
    }
}

/// Index spaces that the scan follows.
#[derive(Clone, Copy)]
enum Sort {
    Module,
    Component,
}

fn within(bound: Limit, found: u64) -> Result<(), ScanError> {
    if found > bound.default { Err(ScanError::OverBound { bound, found }) } else { Ok(()) }
}

/// Rejects a core module or component from elsewhere, because its cost is unknown.
fn direct(kind: ComponentExternalKind) -> Result<(), ScanError> {
    match kind {
        ComponentExternalKind::Module | ComponentExternalKind::Component => Err(ScanError::Indirect),
        _ => Ok(()),
    }
}

/// Checks the depth of a section of types, with an explicit stack.
fn type_depth(bytes: &[u8], section: &SectionLimited<'_, ComponentType<'_>>) -> Result<(), ScanError> {
    const COMPONENT: u8 = 0x41;
    const INSTANCE: u8 = 0x42;
    const TYPE: u8 = 0x01;
    const IMPORT: u8 = 0x03;
    let range = section.range();
    let mut reader = BinaryReader::new(bytes.get(range.clone()).unwrap_or_default(), range.start);
    // Remaining items: types in the section, then declarations in each open type.
    let mut open = vec![reader.read_var_u32()?];
    while let Some(left) = open.last_mut() {
        let Some(fewer) = left.checked_sub(1) else {
            open.pop();
            continue;
        };
        *left = fewer;
        if open.len() > 1 {
            match first(&reader)? {
                TYPE => drop(reader.read_u8()?),
                IMPORT => {
                    reader.read_u8()?;
                    ComponentImport::from_reader(&mut reader)?;
                    continue;
                }
                _ => {
                    InstanceTypeDeclaration::from_reader(&mut reader)?;
                    continue;
                }
            }
        }
        if matches!(first(&reader)?, COMPONENT | INSTANCE) {
            reader.read_u8()?;
            let declarations = reader.read_var_u32()?;
            within(limits::TYPE_DEPTH, open.len() as u64)?;
            open.push(declarations);
        } else {
            ComponentType::from_reader(&mut reader)?;
        }
    }
    Ok(())
}

/// Returns the next byte without consuming it.
fn first(reader: &BinaryReader<'_>) -> Result<u8, BinaryReaderError> {
    reader.clone().read_u8()
}
