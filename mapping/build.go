package mapping

import (
	"maps"
	"slices"
	"strings"
)

// feedModel is a live model of the feed. Ids are distinct within a feed.
type feedModel struct {
	name, id string
	venice   string // another name for it, or empty
	typ      Type
}

// build makes a table of the file's models and the feed's. The file wins.
func build(f file, feed []feedModel) *Table {
	b := builder{
		Table:  Table{index: make(map[string]Model, 3*(len(f.models)+len(feed))+2)},
		called: make(map[string]Model, len(f.models)+len(feed)+1),
	}
	types := make(map[string]Type, len(feed))
	for _, m := range feed {
		types[m.id] = m.typ
	}
	b.addFile(f, types)
	b.addFeed(feed)
	b.addDefault(f, types)
	for id, m := range b.called {
		m.Match = ByID
		b.index[id] = m
	}
	b.addAliases(f, feed)
	slices.SortFunc(b.listing, func(a, b listed) int { return strings.Compare(a.key, b.key) })
	for _, l := range b.listing {
		b.models = append(b.models, l.Model)
	}
	return &b.Table
}

type builder struct {
	Table
	called  map[string]Model // by id: the name that the id answers with
	listing []listed
}

type listed struct {
	key string // the folded name
	Model
}

func (b *builder) addFile(f file, types map[string]Type) {
	b.index[defaultName] = Model{ID: f.defaultID} // no feed may take it
	for _, m := range f.models {
		m.Type = types[m.ID]
		b.addName(m)
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
			b.addName(Model{Name: fm.name, ID: fm.id, Type: fm.typ, Match: ByName})
			continue
		}
		m, named := b.called[fm.id]
		if !named {
			m = Model{Name: fm.id, ID: fm.id, Type: fm.typ, Match: ByID}
			b.listing = append(b.listing, listed{fm.id, m})
			b.called[fm.id] = m
		}
		if !taken { // listed twice: who asks for the name is shown both ids
			b.near = append(b.near, candidate{key: slugString(key), Model: m})
		}
	}
}

func (b *builder) addName(m Model) {
	key := foldString(m.Name)
	b.index[key] = m
	b.listing = append(b.listing, listed{key, m})
	b.near = append(b.near, candidate{key: slugString(key), Model: m})
	if _, ok := b.called[m.ID]; !ok && m.Match == ByName {
		b.called[m.ID] = m
	}
}

func (b *builder) addDefault(f file, types map[string]Type) {
	m, ok := b.called[f.defaultID]
	if !ok {
		m = Model{Name: defaultName, ID: f.defaultID, Type: types[f.defaultID]}
		b.called[m.ID] = m
	}
	m.Match = ByDefault
	b.index[defaultName] = m
	for _, named := range f.models {
		if named.Match == ByDefault {
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
		m := b.called[fm.id]
		theirs.add(slugString(foldString(fm.name)), m)
		if fm.venice != "" {
			theirs.add(foldString(fm.venice), m)
		}
	}
	maps.DeleteFunc(theirs, func(key string, _ Model) bool { _, ok := own[key]; return ok })
	b.addUnique(own)
	b.addUnique(theirs)
	for _, fm := range feed {
		if m, ok := b.index[foldString(fm.venice)]; ok && m.Match == ByAlias && m.ID == fm.id {
			m.Name = fm.venice
			b.near = append(b.near, candidate{key: slugString(foldString(fm.venice)), Model: m})
		}
	}
}

func (b *builder) addUnique(as aliases) {
	for key, m := range as {
		if _, taken := b.index[key]; taken || m.ID == "" {
			continue
		}
		if m.Match != ByDefault {
			m.Match = ByAlias
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
