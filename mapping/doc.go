// Package mapping resolves the model names of clients to models of the Morpheus
// network.
//
// A client asks for "Llama 3.3 70B"; the chain knows only ids, 0x and 64 hex
// digits. Operators keep the translation in model_mappings.json, one flat JSON
// object from name to id, and the network publishes a live feed of its models.
// This package reads both, reports every error in the file with its line, and
// resolves names so that no client silently gets another model than the one it
// asked for.
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
// Letter case does not matter. The first of these that matches the requested name
// gives the model:
//
//  1. a model's id;
//  2. a name;
//  3. an alias: the slug of a name, or the feed's Venice id, if it is unique and
//     not itself a name. A slug is in lower case, with '-' for spaces;
//  4. a name or an alias that equals the slug of the requested name.
//
// An empty name means the default. A name that resembles others is an error with
// suggestions. A name that resembles no other is an error too, or means the
// default if [Options.UnknownIsDefault] is set. A suffix such as ":web" is part of
// the name. [Model.Match] says how the model was found, and [Model.Name] is always
// its canonical name.
//
// # The file, the feed and the registry
//
// The file has precedence for names. The feed adds the models' types, aliases, and
// models that the file does not name. A model of the feed is found only by its id
// if its name is taken, or if two models of the feed have it. The node's registry
// gives the types that the feed does not state. After an invalid reload, or while
// the feed or the registry fails or is empty, its last good content stays in use,
// and [Catalog.Health] shows its age and the error.
//
// A request that needs a type does not get a model of another type. A model whose
// type is not stated serves any request that names it; as the default, it serves
// only chats.
package mapping
