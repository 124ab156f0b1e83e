//! Two listings side by side. Both are streams, so memory does not grow with the number of objects.

use std::pin::Pin;

use futures::StreamExt;
use futures::stream::{BoxStream, Peekable};

use super::error::Side;
use super::{Copier, CopyError};
use crate::archive::{Folder, GRACE_MS, Name};
use crate::store::{Created, Listing, ObjectMeta, StoreError};
use crate::wire::position::ReplId;

/// One of ours, as a listing shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) name: Name,
    pub(super) size: u64,
    pub(super) created: Created,
}

/// An object of the source, of the target, or of both.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pair {
    pub(super) name: Name,
    pub(super) from: Option<Listed>,
    pub(super) to: Option<Listed>,
}

type Objects = Peekable<BoxStream<'static, Result<(String, Listed), StoreError>>>;

/// The objects of one folder of a history at both places, in ascending order.
pub(super) struct Pairs {
    from: Objects,
    to: Objects,
}

impl Pairs {
    /// From the object with that name on, if one is given.
    pub(super) async fn list(
        copier: &Copier,
        folder: Folder,
        history: ReplId,
        begin: Option<Name>,
    ) -> Self {
        let prefix = folder.prefix(history);
        let begin = begin.map(|name| name.to_string());
        let mut wanted = Listing::of(&prefix);
        wanted.from = begin.as_deref();
        let from = copier.from.store().list_with(wanted).await;
        let to = copier.to.store().list_with(wanted).await;
        Self {
            from: ours(from).peekable(),
            to: ours(to).peekable(),
        }
    }

    /// The next one, which stays.
    pub(super) async fn peek(&mut self, copier: &Copier) -> Result<Option<Name>, CopyError> {
        let from = peek(&mut self.from, copier, Side::Source).await?;
        let to = peek(&mut self.to, copier, Side::Target).await?;
        Ok(match (from, to) {
            (Some(from), Some(to)) if from.0 <= to.0 => Some(from.1.name),
            (_, Some(to)) => Some(to.1.name),
            (Some(from), None) => Some(from.1.name),
            (None, None) => None,
        })
    }

    /// The next one.
    pub(super) async fn next(&mut self, copier: &Copier) -> Result<Option<Pair>, CopyError> {
        let Some(name) = self.peek(copier).await? else {
            return Ok(None);
        };
        let is_it = |it: &Result<(String, Listed), StoreError>| {
            it.as_ref().is_ok_and(|(_, listed)| listed.name == name)
        };
        let from = Pin::new(&mut self.from).next_if(is_it).await;
        let to = Pin::new(&mut self.to).next_if(is_it).await;
        let listed = |it: Option<Result<(String, Listed), StoreError>>| {
            it.and_then(Result::ok).map(|(_, listed)| listed)
        };
        Ok(Some(Pair {
            name,
            from: listed(from),
            to: listed(to),
        }))
    }

    /// The next one of the source.
    pub(super) async fn next_of_source(
        &mut self,
        copier: &Copier,
    ) -> Result<Option<Name>, CopyError> {
        let next = peek(&mut self.from, copier, Side::Source).await?;
        Ok(next.map(|(_, listed)| listed.name))
    }
}

/// What is not ours is passed over.
fn ours(
    objects: BoxStream<'static, Result<ObjectMeta, StoreError>>,
) -> BoxStream<'static, Result<(String, Listed), StoreError>> {
    let ours = objects.filter_map(|object| async move {
        let ObjectMeta {
            name: text,
            size,
            created,
        } = match object {
            Ok(object) => object,
            Err(error) => return Some(Err(error)),
        };
        let name = Name::parse(&text)?;
        Some(Ok((
            text,
            Listed {
                name,
                size,
                created,
            },
        )))
    });
    ours.boxed()
}

async fn peek<'a>(
    objects: &'a mut Objects,
    copier: &Copier,
    side: Side,
) -> Result<Option<&'a (String, Listed)>, CopyError> {
    match Pin::new(objects).peek().await {
        None => Ok(None),
        Some(Ok(found)) => Ok(Some(found)),
        Some(Err(error)) => Err(copier.failed(side, error.clone().into())),
    }
}

/// The youngest span of each place: what its store's clock had reached, whatever our clock says.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Newest {
    from: Created,
    to: Created,
}

impl Newest {
    pub(super) async fn of_spans(
        copier: &Copier,
        history: ReplId,
        begin: Option<Name>,
    ) -> Result<Self, CopyError> {
        let mut newest = Self::default();
        let mut spans = Pairs::list(copier, Folder::Spans, history, begin).await;
        while let Some(pair) = spans.next(copier).await? {
            newest.saw(&pair);
        }
        Ok(newest)
    }

    pub(super) fn saw(&mut self, pair: &Pair) {
        self.from = self.from.max(pair.from.and_then(|it| it.created));
        self.to = self.to.max(pair.to.and_then(|it| it.created));
    }

    /// Is a span so old that the segments in it may have been deleted? A writer that sleeps since then is in doubt when it
    /// wakes up, whether their names are there or not ([`crate::archive::Fence`]).
    pub(super) fn is_aged(&self, span: &Pair) -> bool {
        let is_aged = |listed: Option<Listed>, newest: Created| {
            let created = listed.and_then(|it| it.created);
            match (created, newest) {
                (Some(created), Some(newest)) => {
                    created <= newest && newest.abs_diff(created) >= GRACE_MS
                }
                _ => false,
            }
        };
        is_aged(span.from, self.from) || is_aged(span.to, self.to)
    }
}
