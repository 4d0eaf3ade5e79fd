//! Components: loading, compilation in a confined child, and hostile ones.

mod confine;
mod hostile;
mod load;
mod plugins;
mod compiler;
mod scan;
