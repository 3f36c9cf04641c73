//! Walking the key ranges of one table at the same time.

use std::sync::Arc;

use tokio::{sync::Semaphore, task::JoinSet};

use super::{
    Progress, Source, WalkError,
    page::{self, Pages, Skipped},
};
use crate::{
    domain::{RowKey, TargetTable},
    upstream::{PageAsk, TablePage},
};

/// Ranges of one table that are walked at the same time.
const AT_ONCE: usize = 4;
/// Pages that are worth a range of their own.
const PAGES_MIN: u64 = 12;

/// A range of a table's key, in the source's own order.
#[derive(Debug, Clone)]
pub(super) struct Range {
    pub(super) no: i32,
    /// It begins behind this key.
    pub(super) after: Option<RowKey>,
    /// It ends with this key.
    pub(super) through: Option<RowKey>,
    /// The last key walked.
    pub(super) position: Option<RowKey>,
    pub(super) finished: bool,
}

impl Range {
    pub(super) fn whole() -> Self {
        Self { no: 0, after: None, through: None, position: None, finished: false }
    }
}

/// What is done with each page.
pub(super) trait Visitor: Send + Sync + 'static {
    /// Takes a page of a range. Pages of one range come one after the other.
    fn visit(
        &self,
        range: &Range,
        page: &TablePage,
        is_last: bool,
    ) -> impl Future<Output = Result<(), WalkError>> + Send;

    /// The walk goes on in these ranges.
    fn cut(&self, total: Option<u64>, ranges: &[Range]) -> impl Future<Output = Result<(), WalkError>> + Send;
}

/// Walks the ranges to their ends, or, where there is only one that is untouched, finds ranges first. Returns how many
/// rows could not be read and were passed over.
pub(super) async fn walk<V: Visitor>(
    source: &Source,
    target: &TargetTable,
    mut ranges: Vec<Range>,
    visitor: &Arc<V>,
    progress: &Arc<Progress>,
) -> Result<Skipped, WalkError> {
    let mut skipped = Skipped::default();
    if let [Range { after: None, through: None, position: None, finished: false, .. }] = ranges.as_slice() {
        let (found, passed_over) = begin(source, target, visitor, progress).await?;
        ranges = found;
        skipped += passed_over;
    }
    let mut walking = JoinSet::new();
    let places = Arc::new(Semaphore::new(AT_ONCE));
    for range in ranges.into_iter().filter(|range| !range.finished) {
        let (source, target, visitor) = (source.clone(), target.clone(), Arc::clone(visitor));
        let (progress, places) = (Arc::clone(progress), Arc::clone(&places));
        walking.spawn(async move {
            let _place = places.acquire_owned().await;
            walk_range(&source, &target, range, &*visitor, &progress).await
        });
    }
    while let Some(walked) = walking.join_next().await {
        skipped += walked.map_err(|error| WalkError::Panicked(error.to_string()))??;
    }
    Ok(skipped)
}

/// Takes the first page, which also counts the rows, and cuts what is behind it into ranges.
async fn begin<V: Visitor>(
    source: &Source,
    target: &TargetTable,
    visitor: &Arc<V>,
    progress: &Progress,
) -> Result<(Vec<Range>, Skipped), WalkError> {
    let mut whole = Range::whole();
    let mut pages = Pages::new(source, target, &whole, progress).counted();
    let page = pages.next().await?;
    let skipped = pages.skipped;
    if let Some(total) = page.total {
        progress.set_total(total);
    }
    visitor.visit(&whole, &page, !page.has_next).await?;
    progress.add(page.rows.len() as u64);
    whole.position = page.last_key;
    whole.finished = !page.has_next;
    if whole.finished {
        return Ok((vec![whole], skipped));
    }
    let bounds = bounds(source, target, page.total.unwrap_or_default(), progress).await?;
    let ranges = cut(whole, bounds);
    visitor.cut(page.total, &ranges).await?;
    Ok((ranges, skipped))
}

/// Keys that part a table of so many rows into ranges of about one size.
async fn bounds(
    source: &Source,
    target: &TargetTable,
    total: u64,
    progress: &Progress,
) -> Result<Vec<RowKey>, WalkError> {
    let range_rows = page::rows_max(&target.table, source.keys_max) as u64 * PAGES_MIN;
    let count = (total / range_rows).clamp(1, AT_ONCE as u64);
    let mut bounds = vec![];
    for number in 1..count {
        let place = usize::try_from(total / count * number).unwrap_or(usize::MAX);
        let _waiting = progress.wait();
        let ask = PageAsk { skip: place, ..PageAsk::default() };
        match source.upstream.first_key(target.tenant, &target.table, ask).await? {
            Ok(Some(key)) => bounds.push(key),
            Ok(None) => {}
            // Fewer ranges are slower and just as right.
            Err(error) => tracing::debug!(%target, place, %error, "no bound for a key range"),
        }
    }
    bounds.dedup();
    Ok(bounds)
}

fn cut(whole: Range, bounds: Vec<RowKey>) -> Vec<Range> {
    let mut ranges = vec![whole];
    for (no, bound) in (1..).zip(bounds) {
        ranges.last_mut().expect("there is one at least").through = Some(bound.clone());
        ranges.push(Range { no, after: Some(bound), ..Range::whole() });
    }
    ranges
}

/// Walks one range: while a page is being written, the next one is fetched.
async fn walk_range<V: Visitor>(
    source: &Source,
    target: &TargetTable,
    range: Range,
    visitor: &V,
    progress: &Progress,
) -> Result<Skipped, WalkError> {
    let mut pages = Pages::new(source, target, &range, progress);
    let mut page = pages.next().await?;
    loop {
        let (visited, next) = tokio::join!(visitor.visit(&range, &page, !page.has_next), async {
            if page.has_next { Some(pages.next().await) } else { None }
        });
        visited?;
        progress.add(page.rows.len() as u64);
        match next {
            Some(next) => page = next?,
            None => return Ok(pages.skipped),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::KeyValue;

    #[test]
    fn ranges_meet_at_their_bounds() {
        let key = |number| RowKey::from_values(vec![KeyValue::Int(number)]);
        let ranges = cut(Range { position: Some(key(3)), ..Range::whole() }, vec![key(10), key(20)]);
        let shown: Vec<_> =
            ranges.iter().map(|range| (range.no, &range.after, &range.through, &range.position)).collect();
        assert_eq!(
            shown,
            [
                (0, &None, &Some(key(10)), &Some(key(3))),
                (1, &Some(key(10)), &Some(key(20)), &None),
                (2, &Some(key(20)), &None, &None),
            ]
        );
    }
}
