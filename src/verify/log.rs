//! The log: do its segments join, and (with `--deep`) do their bytes match their headers?

use futures::StreamExt;

use super::needs::Start;
use super::{HistoryReport, Stretch, until};
use crate::archive::{
    Archive, ArchiveError, Catalog, ChainEnd, ChainItem, History, LogObject, Name,
};
use crate::display;
use crate::log::segment::SegmentHeader;
use crate::recovery::Progress;
use crate::wire::position::{Boundary, Offset, Position};
use crate::wire::resp::FeedScanner;

/// Follows the log from each base that no stretch before it has reached.
///
/// # Errors
/// When the store fails.
pub(super) async fn walk(
    archive: &Archive,
    catalog: &Catalog,
    history: &History,
    starts: &[Start],
    deep: bool,
    found: &mut HistoryReport,
    progress: &dyn Progress,
) -> Result<(), ArchiveError> {
    let mut done: Option<Offset> = None;
    for start in starts {
        let from = start.from;
        if done.is_some_and(|done| from <= done) {
            continue;
        }
        let mut walk = Walk {
            archive,
            history,
            deep,
            scanner: start
                .db
                .map(|db| FeedScanner::new(Boundary { offset: from, db })),
            reached: from,
            starts,
            found: &mut *found,
            progress,
        };
        walk.run(catalog).await?;
        let to = walk.reached;
        found.stretches.push(Stretch { from, to });
        done = Some(to);
    }
    if let Some(floor) = history.floors.highest() {
        found.notes.push(format!(
            "points before offset {} are not promised any more. Bases before it are read, and of the log what something needs",
            floor.offset
        ));
    } else if starts.is_empty() {
        found
            .notes
            .push("nothing of it can be restored yet: it has no base".to_owned());
    }
    Ok(())
}

struct Walk<'a> {
    archive: &'a Archive,
    history: &'a History,
    deep: bool,
    /// None after a damaged segment and where the database is not known, because it is not known where its last command ends.
    scanner: Option<FeedScanner>,
    reached: Offset,
    starts: &'a [Start],
    found: &'a mut HistoryReport,
    progress: &'a dyn Progress,
}

impl Walk<'_> {
    async fn run(&mut self, catalog: &Catalog) -> Result<(), ArchiveError> {
        let id = self.history.doc.id;
        let mut held = None;
        let mut chain = self.archive.chain(catalog, id, self.reached);
        while self.reached < self.limit()
            && let Some(item) = chain.next().await
        {
            match item {
                Ok(ChainItem::Segment(header)) => {
                    self.found.segments = self.found.segments.saturating_add(1);
                    self.note_clock(&header, &mut held);
                    if self.deep {
                        self.read(&header).await?;
                    }
                    self.reached = header.meta.end;
                }
                Ok(ChainItem::End(end)) => {
                    let bridged = match end {
                        ChainEnd::SteppedOver { resumes, .. } => {
                            self.has_base(catalog, resumes).await?
                        }
                        _ => false,
                    };
                    self.end(end, bridged);
                    return Ok(());
                }
                Err(error @ ArchiveError::Store(_)) => return Err(error),
                Err(error) => {
                    let object = self.object_after();
                    let advice = self.advice();
                    self.found.problem(Some(object), error.to_string(), advice);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// The last byte that is wanted by whatever begins with what was reached.
    fn limit(&self) -> Offset {
        let begun = self.starts.iter().filter(|it| it.from <= self.reached);
        begun.map(|it| it.upto).max().unwrap_or_default()
    }

    /// Notes where times are not usable, once for each time that the clock went back. `told`: the mark that was held
    /// last.
    fn note_clock(&mut self, header: &SegmentHeader, told: &mut Option<i64>) {
        let meta = &header.meta;
        let (Some(back), Some(last)) = (meta.clock_back, meta.marks.last()) else {
            return;
        };
        if told.replace(last.unix_ms) == Some(last.unix_ms) {
            return;
        }
        self.found.notes.push(format!(
            "the clock of the machine that stored it went back, before offset {}, from {} to {}. Times in between name \
             no points, and are refused. Use offsets",
            meta.end,
            display::time(last.unix_ms),
            display::time(back.to_unix_ms)
        ));
    }

    /// The object that should hold the next byte.
    fn object_after(&self) -> String {
        let name = Name::Log {
            history: self.history.doc.id,
            first_byte: self.reached.next_byte(),
        };
        name.to_string()
    }

    fn advice(&self) -> String {
        let mut later = self.starts.iter().map(|it| it.from);
        until(later.find(|at| *at > self.reached))
    }

    /// Is there a base at the end of a bridge, or one after it? It may have come while the names were listed.
    async fn has_base(&self, catalog: &Catalog, resumes: Offset) -> Result<bool, ArchiveError> {
        if self.starts.iter().any(|it| it.from >= resumes) {
            return Ok(true);
        }
        let at = Position {
            history: self.history.doc.id,
            offset: resumes,
        };
        Ok(self.archive.with_base(catalog, at).await?.is_some())
    }

    fn end(&mut self, end: ChainEnd, bridged: bool) {
        let beyond = self.starts.iter().map(|it| it.from);
        let next_base = beyond.filter(|at| *at > self.reached).min();
        match end {
            ChainEnd::Log(_) | ChainEnd::Sealed(_) => {
                if let Some(next) = next_base {
                    self.found.notes.push(format!(
                        "the log ends at offset {}, and continues with the base at offset {next}: points in between \
                         cannot be restored",
                        self.reached
                    ));
                }
            }
            ChainEnd::SteppedOver { at, resumes } if bridged => {
                self.found.notes.push(format!(
                    "nobody has the bytes after offset {at} up to {resumes} (a full sync stepped over them): points in \
                     between cannot be restored"
                ));
            }
            ChainEnd::SteppedOver { at, resumes } => self.missing(at, resumes.next_byte()),
            ChainEnd::Gap { at, next } => self.missing(at, next),
        }
    }

    fn missing(&mut self, at: Offset, next: u64) {
        let what = format!(
            "byte {} of the log is missing; the next segment begins at byte {next}",
            at.next_byte()
        );
        let (object, advice) = (self.object_after(), self.advice());
        self.found.problem(Some(object), what, advice);
    }

    /// Every byte of a segment.
    async fn read(&mut self, header: &SegmentHeader) -> Result<(), ArchiveError> {
        let meta = &header.meta;
        let object = LogObject::of_header(header);
        let object = object.name(meta.history).to_string();
        let mut scanner = self.scanner.take();
        if scanner.is_none() && meta.starts_at_boundary {
            scanner = Some(FeedScanner::new(Boundary {
                offset: meta.start,
                db: meta.db_at_start,
            }));
        }
        // The first segment may begin before the base that the walk begins with.
        let mut skip = scanner
            .as_ref()
            .map_or(0, |scanner| scanner.offset().since(meta.start));
        let read = async {
            let mut bytes = self.archive.read_segment(header).await?;
            let mut wrong = None;
            while let Some(chunk) = bytes.next().await {
                let mut chunk = chunk?;
                self.progress.advance(chunk.len() as u64);
                self.found.bytes_read = self.found.bytes_read.saturating_add(chunk.len() as u64);
                let skipped = usize::try_from(skip).unwrap_or(usize::MAX).min(chunk.len());
                let _skipped = chunk.split_to(skipped);
                skip = skip.saturating_sub(skipped as u64);
                if let Some(scanning) = &mut scanner
                    && let Err(error) = scanning.scan(&chunk, |_| {})
                {
                    wrong.get_or_insert(error.to_string());
                    scanner = None;
                }
            }
            Ok::<_, ArchiveError>(wrong)
        };
        let wrong = match read.await {
            Ok(None) => boundary_differs(header, scanner.as_ref()),
            Ok(wrong) => wrong,
            Err(error @ ArchiveError::Store(_)) => return Err(error),
            Err(error) => {
                scanner = None;
                Some(error.to_string())
            }
        };
        if let Some(what) = wrong {
            let advice = self.advice();
            self.found.problem(Some(object), what, advice);
        }
        self.scanner = scanner;
        Ok(())
    }
}

/// Is the last boundary where the header says?
fn boundary_differs(header: &SegmentHeader, scanner: Option<&FeedScanner>) -> Option<String> {
    let says = header.meta.boundary?;
    let found = scanner?.boundary();
    (found.offset != says.offset).then(|| {
        format!(
            "its header says that the last command ends at offset {}, but its bytes say {}",
            says.offset, found.offset
        )
    })
}
