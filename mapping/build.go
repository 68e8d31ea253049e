package mapping

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"
)

// feedModel is a live model of the feed. Ids are distinct within a feed.
type feedModel struct {
	name, id string
	venice   string // another name for it, or empty
	facts
}

// facts are what the feed or the registry states of a model.
type facts struct {
	typ     Type
	created time.Time
}

// build makes a table of the file's models and the feed's. The file decides
// about names; the registry completes what the feed states.
func build(f file, feed []feedModel, registry map[string]facts) *Table {
	b := builder{
		Table:     Table{index: make(map[string]Model, 3*(len(f.models)+len(feed))+2)},
		canonical: make(map[string]Model, len(f.models)+len(feed)+1),
		facts:     make(map[string]facts, len(registry)+len(feed)),
	}
	maps.Copy(b.facts, registry)
	for _, m := range feed {
		known := b.facts[m.id]
		b.facts[m.id] = facts{cmp.Or(m.typ, known.typ), cmp.Or(m.created, known.created)}
	}
	b.addFile(f)
	b.addFeed(feed)
	b.addDefault(f)
	for id, m := range b.canonical {
		if m.Name != defaultName {
			b.models = append(b.models, m)
		}
		m.Match = matchID
		b.index[id] = m
	}
	slices.SortFunc(b.models, func(a, b Model) int {
		return cmp.Or(strings.Compare(foldString(a.Name), foldString(b.Name)), strings.Compare(a.ID, b.ID))
	})
	b.addAliases(f, feed)
	return &b.Table
}

type builder struct {
	Table
	canonical map[string]Model // by id, under its canonical name
	facts     map[string]facts // by id
}

func (b *builder) model(name, id, match string) Model {
	known := b.facts[id]
	return Model{Name: name, ID: id, Type: known.typ, Created: known.created, Match: match}
}

func (b *builder) addFile(f file) {
	b.index[defaultName] = Model{ID: f.defaultID} // no feed may take it
	for _, m := range f.models {
		b.addName(b.model(m.Name, m.ID, m.Match))
	}
}

func (b *builder) addFeed(feed []feedModel) {
	count := make(map[string]int, len(feed))
	for _, m := range feed {
		count[foldString(m.name)]++
	}
	for _, fm := range feed {
		key := foldString(fm.name)
		_, taken := b.index[key]
		if !taken && count[key] == 1 {
			b.addName(b.model(fm.name, fm.id, matchName))
			continue
		}
		m, named := b.canonical[fm.id]
		if !named {
			m = b.model(fm.id, fm.id, matchID)
			b.canonical[fm.id] = m
		}
		if !taken { // listed twice: whoever asks for the name is shown both ids
			b.near = append(b.near, candidate{key: slugString(key), Model: m})
		}
	}
}

// addName adds a name, which is the canonical one if it is the id's first.
func (b *builder) addName(m Model) {
	key := foldString(m.Name)
	b.near = append(b.near, candidate{key: slugString(key), Model: m})
	if first, ok := b.canonical[m.ID]; ok {
		m.Name = first.Name
	} else if m.Match == matchName {
		b.canonical[m.ID] = m
	}
	b.index[key] = m
}

func (b *builder) addDefault(f file) {
	m, ok := b.canonical[f.defaultID]
	if !ok {
		m = b.model(defaultName, f.defaultID, matchDefault)
		b.canonical[m.ID] = m
	}
	m.Match = matchDefault
	b.index[defaultName] = m
	for _, named := range f.models {
		if named.Match == matchDefault {
			b.index[foldString(named.Name)] = m
		}
	}
}

// addAliases goes last: an alias never stands over an id or a name, and an
// alias of the feed never over one of the file.
func (b *builder) addAliases(f file, feed []feedModel) {
	own, theirs := make(aliases), make(aliases)
	for _, m := range f.models {
		key := foldString(m.Name)
		own.add(slugString(key), b.index[key])
	}
	for _, fm := range feed {
		m := b.canonical[fm.id]
		theirs.add(slugString(foldString(fm.name)), m)
		if fm.venice != "" {
			theirs.add(foldString(fm.venice), m)
		}
	}
	maps.DeleteFunc(theirs, func(key string, _ Model) bool { _, ok := own[key]; return ok })
	b.addUnique(own)
	b.addUnique(theirs)
	for _, fm := range feed {
		if m, ok := b.index[foldString(fm.venice)]; ok && m.Match == matchAlias && m.ID == fm.id {
			m.Name = fm.venice // the name to suggest
			b.near = append(b.near, candidate{key: slugString(foldString(fm.venice)), Model: m})
		}
	}
}

func (b *builder) addUnique(as aliases) {
	for key, m := range as {
		if _, taken := b.index[key]; taken || m.ID == "" {
			continue
		}
		if m.Match != matchDefault {
			m.Match = matchAlias
		}
		b.index[key] = m
	}
}

// aliases are models by folded alias; the zero Model where two ids claim it.
type aliases map[string]Model

func (as aliases) add(key string, m Model) {
	first, ok := as[key]
	switch {
	case !ok:
		as[key] = m
	case first.ID != m.ID:
		as[key] = Model{}
	}
}
