package mapping

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"
)

// feedModel is a live model of the feed. No two models of a feed have the same id.
type feedModel struct {
	name, id string
	venice   string // the Venice id, which is an alias; may be empty
	facts
}

// facts are what the feed or the registry states about a model.
type facts struct {
	typ     Type
	created time.Time
}

// build builds a table from the file, the feed and the registry. The file has
// precedence over the feed for names, and the feed over the registry for facts.
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

// builder is a table that is being built.
type builder struct {
	Table
	canonical map[string]Model // each model once, by id, with its canonical name
	facts     map[string]facts // by id
}

// model returns a model with the facts of its id.
func (b *builder) model(name, id, match string) Model {
	known := b.facts[id]
	return Model{Name: name, ID: id, Type: known.typ, Created: known.created, Match: match}
}

// addFile adds the names of the file.
func (b *builder) addFile(f file) {
	b.index[defaultName] = Model{ID: f.defaultID} // reserves the name; addDefault completes it
	for _, m := range f.models {
		b.addName(b.model(m.Name, m.ID, m.Match))
	}
}

// addFeed adds the models of the feed, with their names unless these are taken or
// belong to several models.
func (b *builder) addFeed(feed []feedModel) {
	count := make(map[string]int, len(feed))
	for _, m := range feed {
		count[foldString(m.name)]++
	}
	for _, fm := range feed {
		key := foldString(fm.name)
		_, isTaken := b.index[key]
		if !isTaken && count[key] == 1 {
			b.addName(b.model(fm.name, fm.id, matchName))
			continue
		}
		m, hasName := b.canonical[fm.id]
		if !hasName {
			m = b.model(fm.id, fm.id, matchID)
			b.canonical[fm.id] = m
		}
		if !isTaken { // several models have the name: suggest each of them
			b.candidates = append(b.candidates, candidate{key: slugString(key), Model: m})
		}
	}
}

// addName adds a name. The first name of an id is the canonical one.
func (b *builder) addName(m Model) {
	key := foldString(m.Name)
	b.candidates = append(b.candidates, candidate{key: slugString(key), Model: m})
	if first, ok := b.canonical[m.ID]; ok {
		m.Name = first.Name
	} else if m.Match == matchName {
		b.canonical[m.ID] = m
	}
	b.index[key] = m
}

// addDefault adds the default, and the names that the file maps to it.
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

// addAliases adds the aliases. It must be called last: ids and names have
// precedence over aliases. Aliases of the file have precedence over the feed's.
func (b *builder) addAliases(f file, feed []feedModel) {
	ofFile, ofFeed := make(aliases), make(aliases)
	for _, m := range f.models {
		key := foldString(m.Name)
		ofFile.add(slugString(key), b.index[key])
	}
	for _, fm := range feed {
		m := b.canonical[fm.id]
		ofFeed.add(slugString(foldString(fm.name)), m)
		if fm.venice != "" {
			ofFeed.add(foldString(fm.venice), m)
		}
	}
	maps.DeleteFunc(ofFeed, func(key string, _ Model) bool { _, ok := ofFile[key]; return ok })
	b.addUnique(ofFile)
	b.addUnique(ofFeed)
	for _, fm := range feed {
		if m, ok := b.index[foldString(fm.venice)]; ok && m.Match == matchAlias && m.ID == fm.id {
			m.Name = fm.venice // the name to suggest
			b.candidates = append(b.candidates, candidate{key: slugString(foldString(fm.venice)), Model: m})
		}
	}
}

// addUnique adds the aliases that belong to one model and are not in the index.
func (b *builder) addUnique(as aliases) {
	for key, m := range as {
		if _, isTaken := b.index[key]; isTaken || m.ID == "" {
			continue
		}
		if m.Match != matchDefault {
			m.Match = matchAlias
		}
		b.index[key] = m
	}
}

// aliases are models by folded alias. An alias of several ids has the zero Model.
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
