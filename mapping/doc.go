// Package mapping says which model of the Morpheus network a client means.
//
// A client asks for "Llama 3.3 70B"; the chain knows only ids, 0x and 64 hex
// digits. Operators keep the translation in model_mappings.json, one flat JSON
// object from name to id, and the network publishes a live feed of its models.
// This package reads both, reports everything that is wrong in the file with its
// line, and resolves names so that no client silently gets another model than
// the one it asked for.
//
//	catalog, err := mapping.New(mapping.Options{File: "model_mappings.json"})
//	...
//	if err := catalog.Load(ctx); err != nil {
//		return err // missing or invalid: do not start
//	}
//	go catalog.Run(ctx) // polls the file, the feed and the node's registry
//	model, err := catalog.Resolve("Llama 3.3 70B", mapping.LLM)
//
// # How a name is resolved
//
// The first that fits, in any letter case: an id in the table; a name; an
// alias, which is the slug of a name or the feed's Venice id, only where it is
// unique and no real name; the slug of what was asked. A slug is lower case
// with '-' for spaces. A name near to others is an error with suggestions,
// never a guess. An empty name is the default, and so, where
// [Options.UnknownIsDefault] says so, is a name that resembles none.
// [Model.Match] says which of these it was. A suffix such as ":web" is part of
// the name. Whatever was asked, [Model.Name] is the model's canonical name.
//
// # The file, the feed and the registry
//
// The file decides about names. The feed adds the models' types, aliases, and
// models that the file does not name; one whose name is taken, or listed twice
// on the chain, is known by its id alone. Where the feed states no type, or
// there is none, the type is that of the node's registry. Neither a bad reload
// nor a failing or empty feed or registry takes anything away: the last good
// copy serves, and [Catalog.Health] shows its age and what is wrong.
//
// A request that needs a type gets no model of another. A model whose type is
// not stated serves any request that names it; as the default, it serves chats
// alone.
package mapping
