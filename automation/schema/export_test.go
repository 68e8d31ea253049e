package schema

// Statements splits a migration's file.
func Statements(text string) (list []string) {
	for _, s := range statements(text) {
		list = append(list, s.text)
	}
	return list
}

// File is a migration's text.
func File(name string) (string, error) {
	b, err := files.ReadFile(name)
	return string(b), err
}
