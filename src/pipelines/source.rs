//! A pipeline's file while it is read: its text, what is wrong in it and where, the fields that it names, the files that it names.

use std::cell::{Ref, RefCell, RefMut};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::{Path as FilePath, PathBuf};

use super::field::Paths;

/// What is wrong in a pipeline's file, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The file, as it was named.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// The column, from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.file, self.line, self.column, self.message)
    }
}

/// What reading a file needs and finds.
#[derive(Debug)]
pub struct Source<'t> {
    file: String,
    text: &'t str,
    faults: RefCell<Vec<Fault>>,
    paths: RefCell<Paths>,
    /// Where files that it names are looked for.
    pub(super) directory: Option<PathBuf>,
    /// The files that it names, by their names.
    pub(super) files: RefCell<BTreeMap<String, String>>,
}

impl<'t> Source<'t> {
    /// A file's text.
    #[must_use]
    pub fn new(file: &str, text: &'t str, directory: Option<&FilePath>) -> Self {
        let directory = directory.map(FilePath::to_owned);
        let (faults, paths, files) = (RefCell::default(), RefCell::default(), RefCell::default());
        Self { file: file.to_owned(), text, faults, paths, directory, files }
    }

    /// The files that it names, as they were read.
    #[must_use]
    pub fn files(&self) -> BTreeMap<String, String> {
        self.files.borrow().clone()
    }

    /// Files that are not looked for any more, because they were read before.
    pub fn know(&self, files: &BTreeMap<String, String>) {
        self.files.borrow_mut().clone_from(files);
    }

    /// The file's name.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Notes a fault at a place in the text.
    pub fn fault(&self, span: &Range<usize>, message: impl Into<String>) {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        self.faults.borrow_mut().push(Fault { file: self.file.clone(), line, column, message: message.into() });
    }

    /// The faults found, in the order of the text.
    #[must_use]
    pub fn into_faults(self) -> Vec<Fault> {
        let mut faults = self.faults.into_inner();
        faults.sort_by_key(|fault| (fault.line, fault.column));
        faults
    }

    /// Whether there were any.
    #[must_use]
    pub fn is_faulty(&self) -> bool {
        !self.faults.borrow().is_empty()
    }

    /// The paths that its fields have been given.
    pub fn paths(&self) -> Ref<'_, Paths> {
        self.paths.borrow()
    }

    pub(super) fn paths_mut(&self) -> RefMut<'_, Paths> {
        self.paths.borrow_mut()
    }
}
