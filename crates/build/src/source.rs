//! Where something is in its .proto.

use std::fmt;
use std::path::{Path, PathBuf};

use prost_types::FileDescriptorProto;

/// A line of a .proto, in the form that editors and people know: `proto/friends.proto:12`.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    file: PathBuf,
    line: usize,
}

impl Place {
    /// The place of the element at `path`, which consists of numbers of fields and positions in the
    /// descriptor, as in `SourceCodeInfo`.
    pub(crate) fn of(path: &[i32], file: &FileDescriptorProto, includes: &[PathBuf]) -> Place {
        let locations = file.source_code_info.iter().flat_map(|info| &info.location);
        let span = locations.filter(|it| it.path == path).find_map(|it| it.span.first());
        let line = span.map_or(1, |line| *line as usize + 1);
        // The descriptor names the file as an `import` would.
        let name = Path::new(file.name());
        let found = includes.iter().map(|dir| dir.join(name)).find(|path| path.exists());
        Place { file: found.unwrap_or_else(|| name.to_owned()), line }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}
