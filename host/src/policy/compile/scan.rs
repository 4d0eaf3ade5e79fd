//! What a component is made of, read off its bytes before anything is compiled: its size in every respect that costs
//! the compiler or an instance something, and what it imports and exports.
//!
//! One pass that allocates for what it has seen, never for what a header announces, and that does not recurse: the
//! parsers behind it do, for nested types, so their depth is bounded here first.

use wasmparser::{
    BinaryReader, BinaryReaderError, ComponentAlias, ComponentExternalKind, ComponentImport,
    ComponentInstance, ComponentOuterAliasKind, ComponentType, Encoding, FromReader, Instance,
    InstanceTypeDeclaration, Parser, Payload, SectionLimited,
};

use crate::limits::{self, Bound};
use crate::text;

/// Why a component is not worth compiling.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScanError {
    /// More of something than its bound.
    #[error("{}", bound.says(found, bound.default))]
    OverBound {
        /// Its row.
        bound: Bound,
        /// How much there is, or more.
        found: u64,
    },
    /// Modules or components that are known only when it is instantiated, so that its size cannot be told.
    #[error(
        "it is given a core module or a component by another, which policies may not be: link them when it is built"
    )]
    Indirect,
    /// Truncated or damaged.
    #[error("the file is no valid component, or not all of it: {0}")]
    Invalid(String),
}

impl From<BinaryReaderError> for ScanError {
    fn from(error: BinaryReaderError) -> Self {
        ScanError::Invalid(text::cut(&text::printable(&error.to_string()), 512))
    }
}

/// The names at the border of a component, in its order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::policy) struct Names<'a> {
    /// What it imports.
    pub(in crate::policy) imports: Vec<&'a str>,
    /// What it exports.
    pub(in crate::policy) exports: Vec<&'a str>,
}

/// Reads the names at a component's border, unless it is over a bound.
///
/// # Errors
/// [`ScanError`]: it would not have been compiled, or not within bounds.
pub(in crate::policy) fn scan(component: &[u8]) -> Result<Names<'_>, ScanError> {
    let mut scan = Scan::default();
    for payload in Parser::new(0).parse_all(component) {
        scan.payload(component, payload?)?;
    }
    Ok(scan.world)
}

/// What instantiating something once makes.
#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    instances: u64,
    memories: u64,
    tables: u64,
    /// That the tables begin with.
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

/// A module or component whose end was not seen yet.
#[derive(Debug, Default)]
struct Open {
    component: bool,
    /// Of the module, or of all that the component has instantiated.
    cost: Cost,
    /// The component's index space of core modules.
    modules: Vec<Cost>,
    /// The component's index space of components.
    components: Vec<Cost>,
}

#[derive(Debug, Default)]
struct Scan<'a> {
    /// From the outermost inwards.
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
                // Those around it are counted when they end.
                within(limits::COMPONENTS, self.components.saturating_add(self.open.len() as u64))?;
                self.open.push(Open {
                    component: encoding == Encoding::Component,
                    // A module is an instance each time; a component is what it instantiates.
                    cost: Cost { instances: u64::from(encoding == Encoding::Module), ..Cost::default() },
                    ..Open::default()
                });
            }
            Payload::End(_) => self.close()?,
            // Of a core module. What it announces must be there, or it is not valid.
            Payload::FunctionSection(section) => {
                self.functions = self.functions.saturating_add(u64::from(section.count()));
                within(limits::FUNCTIONS, self.functions)?;
            }
            Payload::CodeSectionEntry(body) => within(limits::FUNCTION, body.range().len() as u64)?,
            Payload::MemorySection(section) => {
                self.made(Cost { memories: section.count().into(), ..Cost::default() })?;
            }
            Payload::TableSection(section) => {
                self.made(Cost { tables: section.count().into(), ..Cost::default() })?;
                for table in section {
                    self.made(Cost { elements: table?.ty.initial, ..Cost::default() })?;
                }
            }
            // Of a component.
            Payload::ComponentTypeSection(section) => type_depth(bytes, &section)?,
            Payload::ComponentImportSection(section) => {
                for import in section {
                    let ComponentImport { name, ty } = import?;
                    self.named(|world| world.imports.push(name.name))?;
                    direct(ty.kind())?;
                }
            }
            Payload::ComponentExportSection(section) => {
                for export in section {
                    let export = export?;
                    self.named(|world| world.exports.push(export.name.name))?;
                    // An export is an item of its index space once more.
                    match export.kind {
                        ComponentExternalKind::Module => self.again(Sort::Module, 0, export.index)?,
                        ComponentExternalKind::Component => self.again(Sort::Component, 0, export.index)?,
                        _ => {}
                    }
                }
            }
            Payload::ComponentAliasSection(section) => {
                for alias in section {
                    match alias? {
                        ComponentAlias::InstanceExport { kind, .. } => direct(kind)?,
                        ComponentAlias::Outer { kind: ComponentOuterAliasKind::CoreModule, count, index } => {
                            self.again(Sort::Module, count, index)?;
                        }
                        ComponentAlias::Outer { kind: ComponentOuterAliasKind::Component, count, index } => {
                            self.again(Sort::Component, count, index)?;
                        }
                        _ => {}
                    }
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

    /// What ends here is an item of what it stands in.
    fn close(&mut self) -> Result<(), ScanError> {
        let Some(Open { component, cost, .. }) = self.open.pop() else { return Ok(()) };
        if self.open.is_empty() {
            return Ok(());
        }
        self.push(if component { Sort::Component } else { Sort::Module }, cost)
    }

    /// Another item of an index space: what it stands for was seen before.
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

    /// What an item costs; nothing where there is none, which is not valid.
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

    /// A name, which counts if it is of the outermost component.
    fn named(&mut self, add: impl FnOnce(&mut Names<'a>)) -> Result<(), ScanError> {
        if self.open.len() == 1 {
            add(&mut self.world);
        }
        let Names { imports, exports } = &self.world;
        within(limits::EXTERNS, (imports.len() + exports.len()) as u64)
    }
}

/// The index spaces that are followed.
#[derive(Clone, Copy)]
enum Sort {
    Module,
    Component,
}

fn within(bound: Bound, found: u64) -> Result<(), ScanError> {
    if found > bound.default { Err(ScanError::OverBound { bound, found }) } else { Ok(()) }
}

/// What comes from elsewhere must not be something to instantiate.
fn direct(kind: ComponentExternalKind) -> Result<(), ScanError> {
    match kind {
        ComponentExternalKind::Module | ComponentExternalKind::Component => Err(ScanError::Indirect),
        _ => Ok(()),
    }
}

/// Walks the declarations of a section of types with a stack of its own.
fn type_depth(bytes: &[u8], section: &SectionLimited<'_, ComponentType<'_>>) -> Result<(), ScanError> {
    const COMPONENT: u8 = 0x41;
    const INSTANCE: u8 = 0x42;
    const TYPE: u8 = 0x01;
    const IMPORT: u8 = 0x03;
    let range = section.range();
    let mut reader = BinaryReader::new(bytes.get(range.clone()).unwrap_or_default(), range.start);
    // How many are still to come: types in the section, then declarations in each type that is open.
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

/// The next byte, which stays there.
fn first(reader: &BinaryReader<'_>) -> Result<u8, BinaryReaderError> {
    reader.clone().read_u8()
}
