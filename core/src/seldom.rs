//! What is seldom anything but its default.

/// Takes one word while it is the default. A vhost has a hundred thousand connections and sessions that use nothing of it.
#[derive(Debug)]
pub(crate) struct Seldom<T>(Option<Box<T>>);

impl<T> Default for Seldom<T> {
    fn default() -> Self {
        Seldom(None)
    }
}

impl<T> Seldom<T> {
    /// It, unless it is the default.
    #[inline]
    pub(crate) fn get(&self) -> Option<&T> {
        self.0.as_deref()
    }
    /// As [`Seldom::get`], to be changed.
    #[inline]
    pub(crate) fn get_mut(&mut self) -> Option<&mut T> {
        self.0.as_deref_mut()
    }
    /// Takes it out: the default is left.
    pub(crate) fn take(&mut self) -> Option<T> {
        self.0.take().map(|it| *it)
    }
    /// It, made if need be.
    pub(crate) fn make(&mut self) -> &mut T
    where
        T: Default,
    {
        self.0.get_or_insert_default()
    }
}
