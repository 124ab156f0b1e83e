//! Where a history that another server continues may be left: at a point in its log, before its end.

use futures::StreamExt;

use super::{Archive, ArchiveError, Catalog, ChainItem};
use crate::log::segment::SegmentHeader;
use crate::wire::position::{Boundary, Offset, Position, ReplId};
use crate::wire::resp::FeedScanner;

impl Archive {
    /// The boundary at exactly `offset` of `history`, with the database selected there. None: `offset` is inside a
    /// command or a transaction, or not in the log, or no base is before it, or it has expired, so nothing could continue from
    /// there.
    ///
    /// It reads the segment that holds the offset, and earlier ones if a command or transaction began in them.
    pub async fn boundary_at(
        &self,
        catalog: &Catalog,
        history: ReplId,
        offset: Offset,
    ) -> Result<Option<Boundary>, ArchiveError> {
        let Some(found) = catalog.histories.get(&history) else {
            return Ok(None);
        };
        if !catalog.is_restorable_at(history, offset) {
            return Ok(None);
        }
        if self.floors(history).await?.is_below(offset) {
            // What it would need may be deleted.
            return Ok(None);
        }
        if found.extent.unread.contains_key(&offset) {
            let at = Position { history, offset };
            if let Ok(manifest) = self.manifest(at).await? {
                let db = manifest.db;
                return Ok(Some(Boundary { offset, db }));
            }
        }
        let bases = found.bases.iter().map(|base| (base.offset, base.db));
        let parent = found.doc.parent.map(|parent| (parent.offset, parent.db));
        if let Some((offset, db)) = bases.chain(parent).find(|(at, _)| *at == offset) {
            return Ok(Some(Boundary { offset, db }));
        }
        let Some(headers) = self.unit_around(catalog, history, offset).await? else {
            return Ok(None);
        };
        let Some(first) = headers.first() else {
            return Ok(None);
        };
        let mut scanner = FeedScanner::new(Boundary {
            offset: first.meta.start,
            db: first.meta.db_at_start,
        });
        for header in &headers {
            // Two spans may share bytes.
            let begin = scanner.offset();
            let mut bytes = self.read_part(header, begin, header.meta.end).await?;
            while let Some(mut chunk) = bytes.next().await.transpose()? {
                let wanted = offset.since(scanner.offset());
                chunk.truncate(usize::try_from(wanted).unwrap_or(usize::MAX));
                if scanner.scan(&chunk, |_| {}).is_err() {
                    return Ok(None);
                }
            }
        }
        Ok(Some(scanner.boundary()).filter(|boundary| boundary.offset == offset))
    }

    /// The segment that holds byte `offset`, after those back to one that begins at a boundary.
    async fn unit_around(
        &self,
        catalog: &Catalog,
        history: ReplId,
        offset: Offset,
    ) -> Result<Option<Vec<SegmentHeader>>, ArchiveError> {
        let mut headers: Vec<SegmentHeader> = Vec::new();
        let mut byte = offset.0;
        loop {
            let before = Offset::before_byte(byte);
            let header = match self.chain(catalog, history, before).next().await {
                Some(Ok(ChainItem::Segment(header))) => header,
                Some(Err(error)) => return Err(error),
                Some(Ok(ChainItem::End(_))) | None => return Ok(None),
            };
            // The first byte of this segment follows byte number `start`.
            byte = header.meta.start.0;
            let whole = header.meta.starts_at_boundary;
            headers.push(header);
            if whole {
                headers.reverse();
                return Ok(Some(headers));
            }
            if byte == 0 {
                return Ok(None);
            }
        }
    }
}

#[cfg(test)]
#[path = "branch_tests.rs"]
mod tests;
