//! What a page of a listing says of a directory: keys and common prefixes become names, and a name that is both a file
//! and a directory becomes two.

use std::collections::HashSet;
use std::sync::Arc;

use super::attr::FileKind;
use super::known::Item;
use crate::key::{Key, Name, Prefix};
use crate::s3::Page;

/// Suffix of directory markers that old Hadoop tools write.
pub const FOLDER_SUFFIX: &str = "_$folder$";

/// What one page of a listing of `prefix` says, directories first where both exist.
pub struct Parsed {
    pub items: Vec<Arc<Item>>,
    /// Files whose directory twin could still follow.
    pub held: Vec<Arc<Item>>,
    /// Keys without a name that can be shown.
    pub hidden: usize,
    pub folder_suffix: bool,
}

/// `held`: what the page before kept back. `last`: no page follows.
pub fn parse_page(prefix: &Prefix, page: &Page, held: Vec<Arc<Item>>, last: bool, hide_odd: bool) -> Parsed {
    let base = prefix.as_str();
    let mut hidden = 0;
    let mut folder_suffix = false;
    let mut dirs: Vec<Arc<Item>> = Vec::with_capacity(page.prefixes.len());
    let mut dir_names: HashSet<&str> = HashSet::with_capacity(page.prefixes.len());
    let show = |name: Option<Name>| name.filter(|n| !hide_odd || !n.is_escaped());
    for p in &page.prefixes {
        let component = p.strip_prefix(base).and_then(|c| c.strip_suffix('/')).unwrap_or("");
        match show(Name::of_component(component)) {
            Some(name) => {
                dir_names.insert(component);
                dirs.push(Arc::new(Item::dir(name)));
            }
            None => hidden += 1,
        }
    }
    let mut files: Vec<(&str, Arc<Item>)> = Vec::with_capacity(page.objects.len());
    for o in &page.objects {
        let Some(component) = o.key.strip_prefix(base) else { continue };
        if component.is_empty() {
            // The directory's own marker; only one that holds data is worth a name.
            if o.size > 0
                && let Some(name) = show(Some(Name::of_marker()))
            {
                dirs.push(Arc::new(Item::file(name, o)));
            }
            continue;
        }
        if let Some(dir) = component.strip_suffix(FOLDER_SUFFIX).filter(|d| !d.is_empty() && o.size == 0) {
            folder_suffix = true;
            match (show(Name::of_component(dir)), Key::new(&o.key)) {
                (Some(name), Ok(key)) if !dir_names.contains(dir) => {
                    let mut item = Item::dir(name);
                    item.last_modified = o.last_modified;
                    item.odd_marker = Some(key);
                    dirs.push(Arc::new(item));
                }
                (None, _) => hidden += 1,
                _ => {}
            }
            continue;
        }
        // A key that cannot be sent cannot be read either.
        match show(Name::of_component(component)).filter(|_| Key::new(&o.key).is_ok()) {
            Some(name) => files.push((component, Arc::new(Item::file(name, o)))),
            None => hidden += 1,
        }
    }
    let end = end_of(page);
    let mut items = Vec::with_capacity(dirs.len() + files.len() + held.len());
    let mut still_held = Vec::new();
    let shadow = |item: &Arc<Item>, component: &str| -> Option<Arc<Item>> {
        let name = show(Name::of_shadowed(component))?;
        Some(Arc::new(Item { name, ..(**item).clone() }))
    };
    let all_dirs: HashSet<Name> = dirs.iter().filter(|d| d.kind == FileKind::Dir).map(|d| d.name.clone()).collect();
    let held: Vec<(String, Arc<Item>)> = held.into_iter().map(|i| (component_of(prefix, &i.name), i)).collect();
    let all = held.iter().map(|(c, i)| (c.as_str(), i)).chain(files.iter().map(|(c, i)| (*c, i)));
    for (component, item) in all {
        if all_dirs.contains(&item.name) {
            match shadow(item, component) {
                Some(shadowed) => items.push(shadowed),
                None => hidden += 1,
            }
        } else if last || format!("{base}{component}/").as_str() <= end {
            items.push(item.clone());
        } else {
            still_held.push(item.clone());
        }
    }
    items.extend(dirs);
    items.sort_by(|a, b| a.name.cmp(&b.name));
    Parsed { items, held: still_held, hidden, folder_suffix }
}

fn component_of(prefix: &Prefix, name: &Name) -> String {
    prefix.file(name).map(|k| k.as_str()[prefix.as_str().len()..].to_owned()).unwrap_or_default()
}

/// The greatest key of a page; empty when it has none.
pub(super) fn end_of(page: &Page) -> &str {
    let object = page.objects.last().map_or("", |o| o.key.as_str());
    object.max(page.prefixes.last().map_or("", String::as_str))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::s3::Listed;

    fn object(key: &str, size: u64) -> Listed {
        Listed { key: key.into(), size, etag: None, last_modified: None, storage_class: None, version: None }
    }

    fn page(objects: &[(&str, u64)], prefixes: &[&str]) -> Page {
        Page {
            objects: objects.iter().map(|(k, s)| object(k, *s)).collect(),
            prefixes: prefixes.iter().map(|p| p.to_string()).collect(),
            next: None,
        }
    }

    fn names(items: &[Arc<Item>]) -> Vec<(&str, FileKind)> {
        items.iter().map(|i| (i.name.as_str(), i.kind)).collect()
    }

    #[test]
    fn a_directory_hides_a_file_of_its_name_which_stays_reachable() {
        let root = Prefix::root();
        let p = parse_page(&root, &page(&[("a", 1), ("b", 2)], &["a/"]), vec![], true, false);
        assert_eq!(names(&p.items), [("a", FileKind::Dir), ("a@@file", FileKind::File), ("b", FileKind::File)]);
        let hidden = parse_page(&root, &page(&[("a", 1)], &["a/"]), vec![], true, true);
        assert_eq!((names(&hidden.items), hidden.hidden), (vec![("a", FileKind::Dir)], 1));
    }

    #[test]
    fn a_file_is_held_back_until_its_directory_can_no_longer_follow() {
        let root = Prefix::root();
        let first = parse_page(&root, &page(&[("a", 1), ("a-1", 1)], &[]), vec![], false, false);
        assert!(first.items.is_empty());
        let second = parse_page(&root, &page(&[("a-2", 1), ("b", 1)], &["a/"]), first.held, true, false);
        assert_eq!(names(&second.items).iter().map(|n| n.0).collect::<Vec<_>>(), ["a", "a-1", "a-2", "a@@file", "b"]);
    }

    #[test]
    fn markers_and_odd_keys_under_a_prefix() {
        let p = Prefix::new("d").unwrap();
        let parsed = parse_page(
            &p,
            &page(&[("d/", 0), ("d/x_$folder$", 0), ("d/f", 3)], &["d//", "d/../", "d/y/"]),
            vec![],
            true,
            false,
        );
        assert_eq!(
            names(&parsed.items),
            [("@@empty", FileKind::Dir), ("f", FileKind::File), ("x", FileKind::Dir), ("y", FileKind::Dir)]
        );
        assert_eq!(parsed.hidden, 1);
        let data = parse_page(&p, &page(&[("d/", 9)], &[]), vec![], true, false);
        assert_eq!(names(&data.items), [("@@marker", FileKind::File)]);
    }
}
