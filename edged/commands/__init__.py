"""The commands of ``edged`` except ``run`` and ``build``, each imported only when it runs."""
