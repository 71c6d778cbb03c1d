//! A value that rarely differs from its default.

/// Takes only one word while it is the default. Used for rarely used state of connections and sessions, of which a vhost may have
/// a hundred thousand.
#[derive(Debug)]
pub(crate) struct Seldom<T>(Option<Box<T>>);

impl<T> Default for Seldom<T> {
    fn default() -> Self {
        Seldom(None)
    }
}

impl<T> Seldom<T> {
    /// The value, unless it is the default.
    #[inline]
    pub(crate) fn get(&self) -> Option<&T> {
        self.0.as_deref()
    }
    /// Like [`Seldom::get`], mutable.
    #[inline]
    pub(crate) fn get_mut(&mut self) -> Option<&mut T> {
        self.0.as_deref_mut()
    }
    /// Takes the value and leaves the default.
    pub(crate) fn take(&mut self) -> Option<T> {
        self.0.take().map(|it| *it)
    }
    /// The value, allocated if necessary.
    pub(crate) fn make(&mut self) -> &mut T
    where
        T: Default,
    {
        self.0.get_or_insert_default()
    }
}
